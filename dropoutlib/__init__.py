"""Dropout, small enough to read in one sitting and tested line by line.

`p` is always the probability of dropping an element and `q = 1 - p` that of keeping it. Importing the package
loads NumPy and nothing else outside the standard library.
"""

from dropoutlib.convert import inverted_weights, optimizer_settings, standard_weights
from dropoutlib.layers import InvertedDropout, KeyedDropout, StandardDropout
from dropoutlib.masks import bernoulli_mask, keyed_mask, pack, unpack

__version__ = "0.1.0"

__all__ = [
    "InvertedDropout",
    "KeyedDropout",
    "StandardDropout",
    "__version__",
    "bernoulli_mask",
    "inverted_weights",
    "keyed_mask",
    "optimizer_settings",
    "pack",
    "standard_weights",
    "unpack",
]
