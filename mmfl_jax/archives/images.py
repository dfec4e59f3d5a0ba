"""Images as CLIP was trained on: the shorter side to size (bicubic), the centre cut out, then mean and deviation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from mmfl_jax.errors import UserError, one_line

if TYPE_CHECKING:
    from PIL import Image

# Red, green, blue of the images that CLIP was trained on, in 0 to 1 (Radford et al., 2021: the released code).
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits in red, green and blue; grey is repeated, 0 to 65535 becomes 0 to 255.

    Raises:
      UserError: pixels of more than 16 bits or no integers: their range is unknown.
    """
    from PIL import Image

    if image.mode in SIXTEEN_BITS:
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UserError(f"pixels from {pixels.min()} to {pixels.max()}; 0 to 65535 at most")
        return Image.fromarray(((pixels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UserError("pixels are floating-point numbers of unknown range; 8 or 16 bits are needed")
    return image.convert("RGB")


def prepare(image: Image.Image, size: int = 224) -> np.ndarray:
    """Return the centre of an image, its shorter side brought to ``size`` pixels, as uint8 ``[size, size, 3]``.

    Raises:
      UserError: as ``to_rgb``.
    """
    from PIL import Image

    image = to_rgb(image)
    width, height = image.size
    short = min(width, height)
    width, height = size * width // short, size * height // short
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def normalize(images: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Return float32 ``[..., 3]`` of uint8 ``[..., 3]``, as the vision tower takes them; arrays of NumPy or JAX."""
    return (images.astype(np.float32) / 255 - MEAN) / DEVIATION


def read_images(paths: Sequence[str | Path], size: int = 224) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Read and prepare image files, in threads; those that cannot be read are left out and listed.

    Returns:
      uint8 ``[read, size, size, 3]``; int64 ``[read]``, their places in ``paths``; and why by path for the others.

    Raises:
      UserError: none can be read, or the library is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise UserError("reading images needs pillow; pip install 'mmfl_jax[clip]'") from error

    def read(path: str | Path) -> np.ndarray | str:
        try:
            with Image.open(path) as image:
                return prepare(image, size)
        except Exception as error:  # Pillow has many ways to fail on damaged bytes
            return one_line(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(read, paths))
    unreadable = {str(path): result for path, result in zip(paths, results) if isinstance(result, str)}
    images = [result for result in results if not isinstance(result, str)]
    if len(paths) and not images:
        path, reason = next(iter(unreadable.items()))
        raise UserError(f"{path}: cannot be read ({reason}), nor can any other of {len(paths)} images")
    kept = np.array([i for i, result in enumerate(results) if not isinstance(result, str)], np.int64)
    return np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8), kept, unreadable
