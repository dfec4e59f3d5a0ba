"""Which rasters and tables lie in a folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Hashable
from typing import TypeVar

from mmfl_jax.errors import UserError

SUFFIXES = (".tif", ".tiff")

Key = TypeVar("Key", bound=Hashable)


def list_rasters(folder: str) -> dict[str, str]:
    """Return path by name, the path within the folder less its ending, of all GeoTIFFs in a folder and below.

    Raises:
        UserError: a folder that cannot be listed, a name that two files have or that cannot be shown.
    """
    found: dict[str, str] = {}

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    for parent, folders, files in os.walk(folder, onerror=fail):
        # Hidden names and __MACOSX are what archivers leave behind.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for file in sorted(files):
            name, suffix = os.path.splitext(file)
            if suffix.lower() not in SUFFIXES or file.startswith("."):
                continue
            path = os.path.join(parent, file)
            if not path.isprintable():
                raise UserError(f"{path!r}: a name with characters that cannot be shown; rename it")
            name = os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
            add_once(found, name, path)
    return dict(sorted(found.items()))


def add_once(found: dict[Key, str], name: Key, path: str) -> None:
    """Add a file to the paths by name.

    Raises:
        UserError: a name that another file has.
    """
    if name in found:
        raise UserError(f"{path}: {found[name]} has the same name; take one of them away")
    found[name] = path


def subfolders(directory: str) -> dict[str, str]:
    """Return path by name of the folders in a directory, less those that archivers and systems leave behind.

    Raises:
        UserError: a directory that cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            found = {e.name: e.path for e in entries if e.is_dir() and not e.name.startswith((".", "__"))}
    except OSError as error:
        raise UserError(f"{directory}: cannot be listed ({error.strerror})") from error
    return dict(sorted(found.items()))


def by_modality(folders: dict[str, str]) -> dict[str, str]:
    """Return path by modality, which is a folder's name in lower case.

    Raises:
        UserError: two folders of one modality.
    """
    found: dict[str, str] = {}
    for name, path in folders.items():
        if name.lower() in found:
            raise UserError(f"{path}: the modality of {found[name.lower()]} as well; rename one of the folders")
        found[name.lower()] = path
    return found


def read_csv(path: str) -> list[list[str]]:
    """Return the rows of a CSV file without empty ones, blanks around cells taken away.

    Raises:
        UserError: a file that cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, skipinitialspace=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as csv in UTF-8 ({error})") from error
    return [row for row in rows if any(row)]
