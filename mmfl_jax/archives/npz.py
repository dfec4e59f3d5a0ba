"""What an ``.npz`` file holds, by its headers alone, and its arrays, once they are known to fit into memory."""

from __future__ import annotations

import collections
import math
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfl_jax.errors import UserError, one_line
from mmfl_jax.memory import check_fits, readable


@dataclass(frozen=True)
class Header:
    """Say what an array is before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Return its bytes in memory; whole numbers, for a file may claim any."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_headers(path: Path) -> dict[str, Header]:
    """Return the header of every array by name; no array is read.

    Raises:
        UserError: no ``.npz`` file, a damaged one, a member that is encrypted, named twice or no array, a header that
            claims another size than the member has.
    """
    try:
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file; arrays:FILE.npz needs a file written by numpy.savez")
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            counts = collections.Counter(member.filename.removesuffix(".npy") for member in members)
            if twice := [name for name, count in counts.items() if count > 1]:
                raise UserError(f"{path}: array {twice[0]!r} is there {counts[twice[0]]} times")
            return {member.filename.removesuffix(".npy"): _header(path, file, member) for member in members}
    except UserError:
        raise
    except Exception as error:  # zipfile has many ways to fail on damaged bytes
        raise UserError(
            f"{path}: not an .npz file, or a damaged one ({one_line(error)[:200]}); write it by numpy.savez"
        ) from error


def read_arrays(path: Path, names: Iterable[str], headers: dict[str, Header]) -> dict[str, np.ndarray]:
    """Return arrays by name; all have to fit into memory together."""
    names = list(names)
    largest = max(names, key=lambda name: headers[name].size, default="")
    for what, size in (
        (f"array {largest!r} of shape {headers[largest].shape}", headers[largest].size),
        (f"{len(names)} arrays", sum(headers[name].size for name in names)),
    ):
        check_fits(f"{path}: {what}", size)
    arrays = {}
    for name in names:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays[name] = file[name]
        except Exception as error:
            raise UserError(f"{path}: array {name!r} cannot be read, damaged ({one_line(error)[:200]})") from error
    return arrays


def _header(path: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    name = member.filename.removesuffix(".npy")
    if member.flag_bits & 1:
        raise UserError(f"{path}: array {name!r} is encrypted; write the file by numpy.savez")
    try:
        with file.open(member) as content:
            if content.read(6) != b"\x93NUMPY":
                raise UserError(f"{path}: member {name!r} is not a NumPy array; write the file by numpy.savez")
            content.seek(0)
            version = np.lib.format.read_magic(content)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read[version](content)
            begin = content.tell()
    except UserError:
        raise
    except KeyError:
        raise UserError(f"{path}: array {name!r} is of an unknown version of the format; use numpy.savez") from None
    except Exception as error:
        raise UserError(f"{path}: array {name!r} cannot be read, damaged ({one_line(error)[:200]})") from error
    header = Header(tuple(int(length) for length in shape), dtype)
    if dtype.hasobject:
        raise UserError(f"{path}: array {name!r} cannot be read: it holds Python objects, and objects are not allowed")
    if dtype.kind in "Vc":
        raise UserError(f"{path}: array {name!r} holds {dtype}; real numbers or texts are needed")
    if min(header.shape, default=0) < 0 or header.size != member.file_size - begin:
        check_fits(f"{path}: array {name!r} of shape {header.shape}", header.size)
        found = readable(max(member.file_size - begin, 0))
        raise UserError(
            f"{path}: array {name!r} of shape {header.shape} is {readable(header.size)}, its file has {found}"
        )
    return header
