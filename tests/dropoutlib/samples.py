"""Numbers on which a faster product could differ from the plain one, and a comparison that sees every bit."""

from __future__ import annotations

from typing import Any

import numpy as np


def bits(array: Any) -> bytes:
    """Return the bytes of the elements in C order: signs of zeros and payloads of nan count."""
    return np.ascontiguousarray(array).tobytes()


def hostile(size: int, dtype: Any) -> Any:
    """Return ordinary numbers, and among them infinities, nan, both zeros, subnormals and the largest numbers."""
    info = np.finfo(dtype)
    special = [np.inf, -np.inf, np.nan, 0.0, -0.0, info.tiny, -info.tiny, info.smallest_subnormal, info.max, -info.max]
    x = np.random.default_rng(1).standard_normal(size).astype(dtype)
    x[::3] = np.resize(np.array([*special, -info.smallest_subnormal], dtype), x[::3].size)
    return x
