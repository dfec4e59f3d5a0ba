"""Cut scenes into overlapping windows and blend what is predicted for them, a strip of windows at a time."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Images = dict[str, np.ndarray]
# Bytes of a strip: its sums and its images. Wider scenes are done in several panels, from top to bottom each.
STRIP = 128 * 2**20


@dataclass(frozen=True)
class Axis:
    """Say where the windows along one axis of a scene begin, and how much each of their pixels counts.

    Of an overlap the outer quarter counts nothing and the middle half fades: what a window's border falsifies is left
    out where that is no more than a quarter of the overlap wide.

    Attributes:
        length: pixels of the scene.
        starts: int [windows].
        weights: float32 [windows, window]; those of one pixel in all its windows sum to one.
    """

    length: int
    starts: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, length: int, window: int, overlap: int) -> Axis:
        """Lay windows along ``length`` pixels; the last one ends where the scene does."""
        last = max(length - window, 0)
        starts = np.append(np.arange(0, last, window - overlap), last)
        margin = overlap // 4
        rise = np.clip((np.arange(window) - margin + 0.5) / max(overlap - 2 * margin, 1), 0, 1)
        weights = np.ones((len(starts), window))
        weights[1:] = rise
        weights[:-1] = np.minimum(weights[:-1], rise[::-1])
        total = np.zeros(max(length, window))
        for start, weight in zip(starts, weights):
            total[start : start + window] += weight
        for start, weight in zip(starts, weights):
            weight /= total[start : start + window]
        return cls(length, starts, weights.astype(np.float32))

    def panels(self, most: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield parts of the axis, with the numbers of the windows that count in them: about ``most`` at once."""
        window = self.weights.shape[1]
        begins = self.starts + (self.weights > 0).argmax(axis=1)
        ends = self.starts + window - (self.weights[:, ::-1] > 0).argmax(axis=1)
        count = math.ceil(len(begins) / most)
        edges = [*begins[[len(begins) * part // count for part in range(count)]].tolist(), self.length]
        for begin, end in itertools.pairwise(edges):
            yield slice(begin, end), np.flatnonzero((begins < end) & (ends > begin))


@dataclass(frozen=True)
class Block:
    """Hold what is known of some rows and columns of a scene.

    Attributes:
        rows, columns: of the scene.
        probabilities: float32 [rows, columns, classes], a view that lasts until the next block.
        there: [rows, columns] whether any modality has a value.
    """

    rows: slice
    columns: slice
    probabilities: np.ndarray
    there: np.ndarray


@dataclass(frozen=True)
class Windows:
    """Hold how scenes are cut.

    Attributes:
        side: of a window in pixels.
        overlap: of neighbours in pixels, at most half of a side.
        batch: windows that are predicted at once.
    """

    side: int
    overlap: int
    batch: int

    def steps(self, shape: tuple[int, int], classes: int, channels: int) -> int:
        """Return the number of blocks that :meth:`blend` yields for a scene."""
        rows, columns = (Axis.of(length, self.side, self.overlap) for length in shape)
        return len(rows.starts) * len(list(columns.panels(self._most(classes, channels))))

    def blend(
        self,
        read: Callable[[slice, slice], Images],
        shape: tuple[int, int],
        predict: Callable[[Images], np.ndarray],
        classes: int,
        channels: int,
    ) -> Iterator[Block]:
        """Predict a scene, and yield it block by block: panels from left to right, each from top to bottom.

        Args:
            read: returns float32 [rows, columns, channels] by modality, NaN for missing values.
            shape: (height, width) of the scene; where it is smaller than a window, it is mirrored beyond its edges.
            predict: returns [n, side, side, classes] for [n, side, side, channels] by modality; of each window only
                modalities with a value come, and a window without any is not predicted.
            classes: how many.
            channels: of all modalities together.
        """
        rows, columns = (Axis.of(length, self.side, self.overlap) for length in shape)
        for span, chosen in columns.panels(self._most(classes, channels)):
            left = int(columns.starts[chosen[0]])
            right = min(int(columns.starts[chosen[-1]]) + self.side, shape[1])
            total = np.zeros((self.side, max(right - left, self.side), classes), np.float32)
            images: Images = {}
            below = 0
            for top, following, row_weights in zip(rows.starts, [*rows.starts[1:], shape[0]], rows.weights):
                bottom = min(top + self.side, shape[0])
                images = _joined(images, bottom - top, read(slice(max(below, top), bottom), slice(left, right)))
                below = bottom
                padded = {modality: _mirrored(values, self.side) for modality, values in images.items()}
                there = {modality: np.isfinite(values).any(axis=-1) for modality, values in padded.items()}
                places = {int(columns.starts[k]) - left: columns.weights[k] for k in chosen}
                for place, found in self._predicted(predict, padded, there, list(places)):
                    total[:, place : place + self.side] += found * np.outer(row_weights, places[place])[..., None]
                done, cut = following - top, slice(span.start - left, span.stop - left)
                valid = np.logical_or.reduce(list(there.values()))
                yield Block(slice(int(top), int(following)), span, total[:done, cut], valid[:done, cut])
                total[:-done] = total[done:]
                total[-done:] = 0

    def _most(self, classes: int, channels: int) -> int:
        """Return the number of windows side by side of a strip; so many at least that few are done twice."""
        return max(8, STRIP // (4 * (classes + channels) * self.side * (self.side - self.overlap)))

    def _predicted(
        self, predict: Callable[[Images], np.ndarray], images: Images, there: Images, places: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the left edge of each window in a strip and its probabilities."""
        by_set: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place in places:
            columns = slice(place, place + self.side)
            by_set[tuple(m for m, known in there.items() if known[:, columns].any())].append(place)
        # All batches have one size, or the model would be compiled for each.
        size = math.ceil(len(places) / math.ceil(len(places) / self.batch))
        for held, members in by_set.items():
            for first in range(0, len(members) if held else 0, size):
                group = members[first : first + size]
                full = [*group, *group[-1:] * (size - len(group))]
                inputs = {m: np.stack([images[m][:, place : place + self.side] for place in full]) for m in held}
                yield from zip(group, predict(inputs))


def _joined(images: Images, height: int, below: Images) -> Images:
    """Return the last rows of images and those below them, ``height`` together."""
    if not images:
        return below
    return {m: np.concatenate([images[m][len(images[m]) + len(new) - height :], new]) for m, new in below.items()}


def _mirrored(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image of at least ``side`` x ``side`` pixels, mirrored where it has fewer."""
    short = [(0, max(side - length, 0)) for length in image.shape[:2]]
    return np.pad(image, [*short, (0, 0)], "symmetric") if np.any(short) else image
