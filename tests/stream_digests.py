"""Print SHA-256 digests of masks as JSON; needs NumPy and dropoutlib alone.

`tests/stream_digests.json` holds the frozen digests. Any supported Python and NumPy prints the same ones. Run it with
`python -P`, so that no module beside it hides one of the standard library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np

import dropoutlib as d

RATES = (
    0.0, 1.0, 0.5, 0.1, 0.2, 0.3, 0.8, 0.9, 1 / 3, 2 / 3, 1e-12, 2.0**-17, 2.0**-40,
    1 - 3 / 65536, 1 - 2.0**-16, 1 - 2.0**-17, 1 - 2.0**-40, 1 - 2.0**-53, 20000.5 / 65536,
)  # fmt: skip
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (3,), (4,), (5,), (40, 100), (3, 7, 11), (200_003,))
SEEDS = (0, 1, 20260901, 2**64 - 1, 2**100)
KEYS = ((0, 0, 0), (1, 2, 3), (2**63, 1, 2**63), (2**64 - 1, 2**32 - 1, 2**64 - 1))
GENERATORS = (np.random.SFC64, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox)


def digest(masks: list[np.ndarray]) -> str:
    """Return the SHA-256 of shapes and elements."""
    sha = hashlib.sha256()
    for mask in masks:
        sha.update(repr(mask.shape).encode() + mask.astype(np.uint8).tobytes())
    return sha.hexdigest()


def rows() -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield a name and the masks it stands for."""
    for p in RATES:
        for seed in SEEDS:
            layer = d.InvertedDropout(p, seed)
            masks: list[np.ndarray] = []
            for shape in SHAPES:
                layer.forward(np.ones(shape))
                masks.append(np.asarray(layer.mask))
            yield f"layer p={p!r} seed={seed}", masks
        for key in KEYS:
            yield f"keyed p={p!r} key={key}", [d.keyed_mask(shape, p, *key) for shape in SHAPES]
        for make in GENERATORS:
            generator = make(5)
            yield f"{make.__name__} p={p!r}", [d.bernoulli_mask(shape, p, generator) for shape in SHAPES]


def digests() -> dict[str, str]:
    """Return the digest of every row."""
    return {name: digest(masks) for name, masks in rows()}


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
