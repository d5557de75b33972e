"""A shuffle that no list holds: position → index, computed.

A Feistel network over the smallest even number of bits that holds `num`, walked along its cycles until the result is
below `num` (Black and Rogaway, Ciphers with Arbitrary Finite Domains, https://web.cs.ucdavis.edu/~rogaway/papers/subset.pdf).
It is a permutation for every key, looks random enough for training, and costs no memory however many rows there are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_NUM_ROUNDS: Final = 6


def permuted(positions: Indices, num: int, *key: int) -> Indices:
    """The indices that stand at `positions` of the shuffle of `range(num)` under `key`."""
    assert num > 0
    bits = max(1, ((num - 1).bit_length() + 1) // 2)
    round_keys = _round_keys(key)
    result = positions.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):
        result[outside] = _encrypted(result[outside], bits, round_keys)
        outside = outside[result[outside] >= num]
    return result.astype(np.int64)


def _encrypted(values: NDArray[np.uint64], bits: int, round_keys: list[int]) -> NDArray[np.uint64]:
    shift, mask = np.uint64(bits), np.uint64((1 << bits) - 1)
    left, right = values >> shift, values & mask
    for key in round_keys:
        left, right = right, left ^ (_mixed(right ^ np.uint64(key)) & mask)
    return (left << shift) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (https://prng.di.unimi.it/splitmix64.c): each bit hangs on each bit given."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(key: tuple[int, ...]) -> list[int]:
    state = 0
    keys = []
    for part in (*key, *range(_NUM_ROUNDS)):
        state = (state + 0x9E3779B97F4A7C15 * (part + 2)) % 2**64
        state = int(_mixed(np.array([state], dtype=np.uint64))[0])
        keys.append(state)
    return keys[-_NUM_ROUNDS:]
