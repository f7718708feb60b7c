"""Counter-based randomness and the fixed 64-bit hash of ids.

Nothing in Queryloop draws from a stream: a random number is a hash of what it is for
(seed, user, date, slot, ...), so it is the same on any runner, worker count and order.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

UIntArray = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1
_BUCKET_SALT = 0x5157455259  # fixed for ever: stored rows lie where it put them


def mix64(values: npt.ArrayLike) -> UIntArray:
    """The splitmix64 finaliser (Steele, Lea, Flood 2014): (n,) ints to (n,) well-mixed uint64."""
    z = np.atleast_1d(np.asarray(values)).astype(np.uint64, copy=True)
    z += _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def hash64(*parts: npt.ArrayLike | str) -> UIntArray:
    """One uint64 per row from any number of ints, (n,) int arrays and strings, in this order."""
    state = mix64(np.uint64(len(parts)))
    for part in parts:
        number = text_hash(part) if isinstance(part, str) else part
        values = np.atleast_1d(np.asarray(number)).astype(np.uint64, copy=False)
        state = mix64(state ^ values)
    return state


def hash64_of(*parts: int | str) -> int:
    """The one value of `hash64` where no part is an array: a tenth of its time, for one request."""
    state = _mix_one(len(parts))
    for part in parts:
        number = int(text_hash(part)) if isinstance(part, str) else part
        state = _mix_one(state ^ (number & _MASK))
    return state


def _mix_one(value: int) -> int:
    z = (value + int(_GOLDEN)) & _MASK
    z = ((z ^ (z >> 30)) * int(_MIX_1)) & _MASK
    z = ((z ^ (z >> 27)) * int(_MIX_2)) & _MASK
    return z ^ (z >> 31)


def uniforms(*parts: npt.ArrayLike | str) -> npt.NDArray[np.float64]:
    """(n,) float64 in the open interval (0, 1): 53 bits of `hash64(*parts)`."""
    return unit_interval(hash64(*parts))


def unit_interval(hashes: UIntArray) -> npt.NDArray[np.float64]:
    """(n,) uint64 to (n,) float64 in (0, 1); the last half step would round up to 1."""
    values = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(values, 1.0 - 2.0**-53)


def hash63(*parts: npt.ArrayLike | str) -> npt.NDArray[np.int64]:
    """`hash64` without its sign bit, never 0: an id made from what it names."""
    ids = (hash64(*parts) >> np.uint64(1)).astype(np.int64)
    return np.maximum(ids, 1)


def text_hash(text: str, key: bytes = b"") -> np.uint64:
    """BLAKE2b of UTF-8 `text` as uint64, keyed where `key` is given (at most 64 bytes)."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def buckets_of(user_ids: npt.ArrayLike, n_buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each user, (n,) in [0, n_buckets): low bits, so that the number can be doubled.

    Raises:
        ValueError: `n_buckets` is no power of two.
    """
    if n_buckets < 1 or n_buckets & (n_buckets - 1):
        raise ValueError(f"buckets must be a power of two, got {n_buckets}")
    return (hash64(_BUCKET_SALT, user_ids) & np.uint64(n_buckets - 1)).astype(np.int64)
