"""Reads a TensorFlow checkpoint ("tensor bundle") without TensorFlow: an index, a small key-value table, and the data.

The index is a LevelDB table: blocks of prefix-compressed keys, the last 48 bytes say where the block of blocks lies.
Each value is a protocol buffer (``BundleEntryProto``): 1 type, 2 shape, 4 offset in the data file, 5 size.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOAT = 1
"""TensorFlow's number for 32-bit floats."""


def read_bundle(index: bytes, data: bytes) -> dict[str, Tensor]:
    """All tensors of 32-bit floats, by name."""
    footer = index[-48:]
    _, place = _varint(footer, 0)
    _, place = _varint(footer, place)
    start, place = _varint(footer, place)
    size, _ = _varint(footer, place)
    tensors = {}
    for _, handle in _entries(index, start, size):
        block_start, place = _varint(handle, 0)
        block_size, _ = _varint(handle, place)
        for key, value in _entries(index, block_start, block_size):
            fields = dict(_fields(value))
            if key and fields.get(1, FLOAT) == FLOAT:
                first = fields.get(4, 0)
                values = np.frombuffer(data[first : first + fields[5]], "<f4").copy()
                tensors[key.decode()] = torch.from_numpy(values).reshape(_shape(fields.get(2, b"")))
    return tensors


def _shape(message: bytes) -> list[int]:
    return [dict(_fields(dimension)).get(1, 1) for number, dimension in _fields(message) if number == 2]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, low ones first, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _entries(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key leaves out what it shares with the one before."""
    if table[start + size]:
        raise ValueError("a compressed block, which TensorFlow never writes")
    block = table[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    place, key = 0, b""
    while place < len(block) - 4 - 4 * restarts:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + own]
        place += own
        yield key, block[place : place + length]
        place += length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(message, place)
        else:
            length = {1: 8, 5: 4}.get(kind)
            if length is None:
                length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        yield tag >> 3, value
