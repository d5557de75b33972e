"""Bytes of a matrix in NF4 (https://arxiv.org/abs/2305.14314): four bits a number, a byte of scale for each 64 numbers
of a row, and what these bytes are multiples of, once a row.

    a row of n numbers = 32 · ⌈n / 64⌉ + ⌈n / 64⌉ + 4

which is 4.13 bits a number for rows of 4,096 (the paper's double quantisation: 4.127).
"""

from __future__ import annotations

BLOCK = 64
"""Numbers of one scale: the paper's, and bitsandbytes' default."""
RANGE_BYTES = 4
"""Of a row: the lowest scale and the distance between two of them, in bfloat16."""


def nf4_blocks(num_columns: int) -> int:
    """Blocks of a row; the last one is filled up with zeros."""
    return -(-num_columns // BLOCK)


def nf4_bytes(num_rows: int, num_columns: int) -> int:
    """Of a whole matrix."""
    return num_rows * (nf4_blocks(num_columns) * (BLOCK // 2 + 1) + RANGE_BYTES)
