"""Where the arrays of samples lie in shards, and reading them from there without a copy in between.

A shard is an ArrayRecord file, in Riegeli's format: records uncompressed, but for a header of 24 bytes at every 64 KiB.
When a shard was written, its records are looked up in the file; places count the file's bytes without those headers.
What is not found there (another version may write otherwise) is read by ArrayRecord's own reader.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfl_jax.errors import UserError, one_line

BLOCK, HEADER = 1 << 16, 24
BODY = BLOCK - HEADER
UNKNOWN = -1
WRITER_OPTIONS = "group_size:1,uncompressed"
# Bytes that a record is looked for by.
_START = 64
# One read fills at most 1,024 buffers, every second one for a header.
_LARGEST = 500 * BODY
_skipped = bytearray(HEADER)


def locate(path: Path, records: Sequence[bytes]) -> list[int]:
    """Return where each record of a file lies, ``UNKNOWN`` for those that ArrayRecord's reader alone finds.

    Raises:
        UserError: a record is not in the file.
    """
    places, next_place = [], 0
    with open(path, "rb") as file:
        for number, record in enumerate(records):
            # Chunks have small headers; padding may fill up a block.
            window = _window(file, next_place, len(record) + 2 * BLOCK)
            at = window.find(record[:_START])
            found = at >= 0 and window[at : at + len(record)] == record
            places.append(next_place + at if found else UNKNOWN)
            next_place += at + len(record) if found else 0
            if not found and read_record(os.fspath(path), number) != record:
                raise UserError(f"{path}: sample {number} is not as it was written; the disk may be failing")
    return places


def place_within(record: bytes, content: bytes) -> int:
    """Return where the content of an array lies in a record, ``UNKNOWN`` where it is not there as it is."""
    if len(content) > _LARGEST or not hasattr(os, "preadv"):
        return UNKNOWN
    at = record.find(content[:_START])
    while at >= 0 and record[at : at + len(content)] != content:
        at = record.find(content[:_START], at + 1)
    return at


def read_into(path: str, wanted: Sequence[tuple[int, np.ndarray]]) -> None:
    """Read arrays that lie at known places of a file, each C-contiguous.

    Raises:
        UserError: the file is missing or too short.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            for place, array in wanted:
                block, within = divmod(place, BODY)
                if os.preadv(file, *_pieces(block, within, memoryview(array.data).cast("B"))) < array.nbytes:
                    raise UserError(f"{path}: cut short; prepare the archive again")
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _pieces(block: int, within: int, target: memoryview) -> tuple[list[Any], int]:
    """Return the buffers that a read fills, headers between, and the position in the file that it begins at."""
    first = min(BODY - within, len(target))
    buffers: list[Any] = [target[:first]]
    for start in range(first, len(target), BODY):
        buffers += [_skipped, target[start : start + BODY]]
    return buffers, block * BLOCK + HEADER + within


def _window(file: Any, place: int, size: int) -> bytes:
    """Return the bytes of a file from a place on, without headers."""
    block, within = divmod(place, BODY)
    file.seek(block * BLOCK)
    content = file.read(-(-(within + size) // BODY) * BLOCK)
    bodies = [content[start + HEADER : start + BLOCK] for start in range(0, len(content), BLOCK)]
    return b"".join(bodies)[within:]


@functools.lru_cache(maxsize=64)
def _reader(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(path, "readahead_buffer_size:0", file_reader_buffer_size=1 << 15)


def read_record(path: str, position: int) -> bytes:
    """Read a record by ArrayRecord's own reader, which checks it.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return _reader(path).read([position])[0]
    except Exception as error:  # of whatever kind array_record raises
        raise UserError(f"{path}: sample {position} cannot be read ({one_line(error)})") from error
