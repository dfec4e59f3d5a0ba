"""Scene archives: RGB images in one folder for each class, of one directory or of several."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfl_jax.archives.base import Archive, ModalitySpec, choose_modalities
from mmfl_jax.archives.images import DEVIATION, MEAN, read_images, to_rgb
from mmfl_jax.archives.scenes_names import recognise, spaced
from mmfl_jax.errors import UserError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# How far below a directory its class folders may lie, as in UCMerced_LandUse/Images/agricultural.
DEPTH = 2
# An image so much longer than wide is none of a scene, and what is cut out of it would be next to nothing.
LONGEST = 50


class Scenes(Archive):
    """Read scenes for classification, prepared as CLIP's images: bicubic, the centre cut out.

    Classes are the folders' names as words, in alphabetical order; folders of the same words are one class. Where
    there are several directories, a plural is its singular's class (UC Merced's storage tanks are NWPU's storage tank).
    A class without a readable image is left out with a warning, and so is an image that cannot be read.

    Args:
        directories: each holds a folder a class, directly or one or two folders deeper; folders ``train``,
            ``test`` and perhaps ``val`` above those of the classes are the official split.
        modalities: ``rgb``, or all by default.
        image_size: height and width.

    Raises:
        UserError: no such directory, no class folder, no readable image, fewer than two classes.
    """

    def __init__(
        self, directories: Sequence[str | Path], *, modalities: tuple[str, ...] | None = None, image_size: int = 224
    ):
        for directory in directories:
            if not os.path.isdir(directory):
                raise UserError(f"{directory}: no such folder; scenes:DIR needs the one with a folder for each class")
        if len({os.path.realpath(directory) for directory in directories}) < len(directories):
            raise UserError(f"scenes:{','.join(map(str, directories))}: a directory is named twice; name each once")
        choose_modalities(modalities, ("rgb",), "scenes")
        trees = [_read_tree(Path(directory)) for directory in directories]
        _refuse_links({os.path.dirname(file) for tree in trees for file in tree.files})
        names = _unite([tree.classes for tree in trees])
        self.name, self.task = "scenes", "multiclass"
        self.class_names = tuple(sorted(set(names)))
        if len(self.class_names) < 2:
            raise UserError(f"{directories[0]}: one class alone, {names[0]!r}; at least two folders with images needed")
        mean, std = 255 * MEAN, 255 * DEVIATION
        self.modalities = {"rgb": ModalitySpec((image_size, image_size, 3), ("red", "green", "blue"), mean, std)}
        self.labels = np.searchsorted(self.class_names, names).astype(np.int32)
        titles = [tree.title for tree in trees]
        if len(set(titles)) < len(titles):
            titles = [str(directory) for directory in directories]
        self.attributes = {
            "archive": np.repeat(titles, [len(tree.files) for tree in trees]),
            "class": np.array(names),
            "file": np.array([file for tree in trees for file in tree.files]),
        }
        splits = [split for tree in trees for split in tree.splits]
        official = "" not in splits and {"train", "test"} <= set(splits)
        self.splits = np.array(splits) if official else None
        self.copies = _copies([file for tree in trees for file in tree.files])
        self.notes = {
            "path": ",".join(map(str, directories)),
            "recognised": {str(directory): tree.known for directory, tree in zip(directories, trees) if tree.known},
            "left_out_empty_classes": [folder for tree in trees for folder in tree.empty],
            "left_out_unreadable": {path: reason for tree in trees for path, reason in tree.unreadable.items()},
        }

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read and prepare the images, several files at a time; values are 0 to 255."""
        paths = self.attributes["file"][self.checked(modality, indices)].tolist()
        with warnings.catch_warnings():  # of damaged tags: only pixels are used
            warnings.simplefilter("ignore")
            images, _, unreadable = read_images(paths, self.modalities[modality].shape[0])
        for path, reason in unreadable.items():
            raise UserError(f"{path}: cannot be read ({reason}); replace it or take it away")
        return images.astype(np.float32)


@dataclass
class Tree:
    """Hold what one directory has: readable images with class and split, and what was left out."""

    title: str
    known: str
    files: list[str]
    classes: list[str]
    splits: list[str]
    empty: list[str]
    unreadable: dict[str, str]


def _read_tree(directory: Path) -> Tree:
    folders = _class_folders(str(directory))
    files = [file for folder in folders for file in folders[folder]]
    if not files:
        direct = "; images lie in it directly, name the folder above it" if _list(str(directory))[1] else ""
        raise UserError(f"{directory}: no class folder with images ({', '.join(SUFFIXES)}) in it{direct}")
    unreadable = _unreadable(files)
    kept = [file for file in files if file not in unreadable]
    if not kept:
        raise UserError(
            f"{files[0]}: cannot be read ({unreadable[files[0]]}), nor can any other of {len(files)} images"
        )
    parents = [os.path.dirname(file) for file in kept]
    classes = {folder: spaced(os.path.basename(folder)) for folder in folders}
    empty = sorted(set(folders) - set(parents))
    above = {folder: SPLITS.get(os.path.basename(os.path.dirname(folder)).lower(), "") for folder in folders}
    found = [classes[parent] for parent in parents]
    known = recognise(found)
    tree = Tree(
        title=known.name if known else os.path.basename(os.path.realpath(directory)),
        known=known.name if known else "",
        files=kept,
        classes=found,
        splits=[above[parent] for parent in parents],
        empty=empty,
        unreadable=unreadable,
    )
    if unreadable:
        count = f"{len(unreadable)} of {len(files)}"
        _warn(f"{directory}: {count} images cannot be read and are left out: {_first(unreadable)}")
    if empty:
        _warn(f"{directory}: class folders without a readable image are left out: {_first(empty)}")
    if known and (len(set(found)), len(kept)) != (len(known.classes), known.images):
        _warn(
            f"{directory}: {len(set(found))} classes and {len(kept)} images; "
            f"published {known.name} has {len(known.classes)} and {known.images}"
        )
    return tree


def _class_folders(directory: str, depth: int = DEPTH) -> dict[str, list[str]]:
    """Return the images by class folder: the folders of the first level at which there are images."""
    below, _ = _list(directory)
    folders = {folder: _list(folder)[1] for folder in below}
    # A stray image beside the class folders of a split does not make the split a class.
    if any(files for folder, files in folders.items() if Path(folder).name not in SPLITS) or not depth:
        return folders
    return {name: files for folder in folders for name, files in _class_folders(folder, depth - 1).items()}


def _list(directory: str) -> tuple[list[str], list[str]]:
    """Return the folders and the images of a directory, in order of their names."""
    try:
        # Hidden names and __MACOSX are what archivers leave behind.
        with os.scandir(directory) as found:
            entries = sorted((e for e in found if not e.name.startswith((".", "__"))), key=lambda entry: entry.name)
        folders = [entry.path for entry in entries if entry.is_dir()]
        images = [entry.path for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
    except OSError as error:
        raise UserError(f"{directory}: cannot be listed ({error.strerror})") from error
    if odd := next((path for path in (*folders, *images) if not path.isprintable()), None):
        raise UserError(f"{odd!r}: a name with characters that cannot be shown; rename it")
    return folders, images


def _refuse_links(folders: Iterable[str]) -> None:
    """Refuse two class folders that are one, by a link or a directory within another: its images would count twice."""
    seen: dict[str, str] = {}
    for folder in sorted(folders):
        other = seen.setdefault(os.path.realpath(folder), folder)
        if other != folder:
            raise UserError(
                f"{folder}: the same folder as {other}, by a link or a directory named twice; take one away"
            )


def _copies(files: list[str]) -> np.ndarray | None:
    """Return numbers [files], equal where files are; None where no two are. Only files of one size are read."""
    sizes: dict[int, list[int]] = {}
    for number, file in enumerate(files):
        sizes.setdefault(os.path.getsize(file), []).append(number)
    doubtful = [number for numbers in sizes.values() if len(numbers) > 1 for number in numbers]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda number: hashlib.sha256(Path(files[number]).read_bytes()).digest(), doubtful)
    copies, seen = np.arange(len(files)), dict[bytes, int]()
    for number, digest in zip(doubtful, digests):
        copies[number] = seen.setdefault(digest, number)
    return copies if len(seen) < len(doubtful) else None


def _unreadable(files: list[str]) -> dict[str, str]:
    """Return why by path for images that cannot be read."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("reading images needs pillow; pip install 'mmfl_jax[clip]'") from error
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")
        reasons = list(pool.map(_fault, files))
    return {file: reason for file, reason in zip(files, reasons) if reason}


def _fault(path: str) -> str:
    """Return why an image cannot be read, or nothing; as little is decoded as tells."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode == "F":
                return "pixels are floating-point numbers of unknown range; 8 or 16 bits are needed"
            if max(image.size) > LONGEST * min(image.size):
                return f"{image.size[0]} x {image.size[1]} pixels are no scene"
            if image.format == "PNG":
                image.verify()  # the checksums of all its parts
                return ""
            image.draft("L", (1, 1))  # an eighth of a JPEG's pixels, of all its data
            image.load()
            if image.mode == "I":
                to_rgb(image)  # refuses what is beyond 16 bits
    except Exception as error:  # Pillow has many ways to fail on damaged bytes
        return one_line(error)
    return ""


def _unite(trees: list[list[str]]) -> list[str]:
    """Return the class of every image of all directories, a plural as its singular where both are there."""
    names = [name for classes in trees for name in classes]
    there = set(names)
    single = {name: name[:-1] for name in there if len(trees) > 1 and name.endswith("s") and name[:-1] in there}
    return [single.get(name, name) for name in names]


def _first(paths: Sequence[str] | dict[str, str], most: int = 3) -> str:
    shown = [os.path.join(*Path(path).parts[-2:]) for path in list(paths)[:most]]
    return ", ".join(shown) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
