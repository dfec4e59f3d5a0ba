"""The test split, and validation samples: what no client trains on."""

from __future__ import annotations

import numpy as np

from mmfl_jax.archives.base import SPLITS, Archive
from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.partition import Parts
from mmfl_jax.federation.ragged import offsets_of, ranks


def train_and_test(archive: Archive, test_split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and of test samples.

    Args:
      archive: the samples.
      test_split: ``official`` (the archive's own ``train`` and ``test``), ``by:ATTRIBUTE[:FOLD/FOLDS]`` (whole values
        of an attribute, so that no value is on both sides: fold FOLD of scikit-learn's
        ``GroupKFold(FOLDS, shuffle=True)`` with random state 0; default 0/5), a number between 0 and 1 (that share of
        samples, at random, all samples of a place on one side), or ``auto`` (official where there is one, else 0.2).
      seed: of a random share.

    Raises:
      UserError: for an unknown form, when either side is empty, or when a place or an image is on both.
    """
    everything = np.arange(len(archive))
    form = ("official" if archive.splits is not None else "0.2") if test_split == "auto" else test_split
    if form == "official":
        if archive.splits is None:
            raise UserError(f"--test-split official: archive {archive.name} has no official split; try 0.2")
        train, test = (everything[_official(archive) == side] for side in ("train", "test"))
    elif form.startswith("by:"):
        held_out = _fold(archive, form)
        train, test = everything[~held_out], everything[held_out]
    else:
        held_out = _drawn(archive, _share(test_split, form), seed)
        train, test = everything[~held_out], everything[held_out]
    if not len(train) or not len(test):
        raise UserError(
            f"--test-split {test_split}: {len(train)} training and {len(test)} test samples of {len(archive)}; "
            "both must have some"
        )
    _check_sides(archive, test_split, train, test)
    return train, test


def without_validation(
    archive: Archive, parts: Parts, test_split: str, share: float, seed: int
) -> tuple[Parts, np.ndarray]:
    """Return what the owners train on, and the sorted indices of the validation samples.

    Args:
      archive: the samples.
      parts: what the owners have.
      test_split: see :func:`train_and_test`.
      share: of each owner's samples, rounded down, at random: those of a place or image are drawn one after the other.
        0 for the archive's own ``validation`` samples, where its official split is taken; else there are none.
      seed: of a random share.
    """
    if not share:
        official = test_split in ("official", "auto") and archive.splits is not None
        return parts, np.flatnonzero(archive.splits == "validation") if official else np.zeros(0, np.int64)
    whole = _wholes(archive)
    turn = generator(seed, Stream.VALIDATION).permutation(whole.max() + 1)[whole[parts.samples]]
    count = (share * parts.sizes).astype(np.int64)
    kept = ranks(parts.offsets, turn) >= np.repeat(count, parts.sizes)
    left = Parts(parts.names, parts.samples[kept], offsets_of(parts.sizes - count))
    return left, np.unique(parts.samples[~kept])


def _official(archive: Archive) -> np.ndarray:
    splits = np.asarray(archive.splits)
    if (odd := np.flatnonzero(~np.isin(splits, SPLITS))).size:
        found = f"sample {odd[0]} is in split {splits[odd[0]]!r}"
        raise UserError(f"archive {archive.name}: {found}; each must be in one of: {', '.join(SPLITS)}")
    return splits


def _drawn(archive: Archive, share: float, seed: int) -> np.ndarray:
    """Return ``[samples]`` whether each is a test sample: a random share, what belongs together on one side."""
    whole = _wholes(archive)
    sizes = np.bincount(whole)
    order = generator(seed, Stream.TEST).permutation(len(sizes))
    count = round(share * len(archive))
    chosen = order[: np.searchsorted(np.cumsum(sizes[order]), count) + 1] if count else order[:0]
    return np.isin(whole, chosen)


def _wholes(archive: Archive) -> np.ndarray:
    """Return ``[samples]`` numbers from 0, equal where samples show the same place or image, directly or by others."""
    number = np.arange(len(archive))
    edges = []
    for _, values in archive.same():
        _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        if len(first) < len(values):
            edges.append((number, first[inverse]))
    if not edges:
        return number
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.concatenate(edges, axis=1)
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), (len(archive),) * 2)
    return connected_components(links, directed=False)[1]


def _check_sides(archive: Archive, test_split: str, train: np.ndarray, test: np.ndarray) -> None:
    for name, values in archive.same():
        leaked = np.isin(values[test], values[train])
        if leaked.any():
            first = values[test][leaked.argmax()]
            if name == "images":
                row = train[np.argmax(values[train] == first)]
                what = f"have the same images as training samples, such as {test[leaked.argmax()]} and {row}"
                cure = "take out the copies, or give a share such as 0.2, which keeps copies on one side"
            else:
                what = f"have a {name} that training samples have too, such as {first}"
                cure = f"give by:{name}, or a share such as 0.2, which keeps every {name} on one side"
            raise UserError(f"--test-split {test_split}: {leaked.sum()} of {len(test)} test samples {what}; {cure}")


def _share(option: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(
            f"--test-split {option!r} is unknown; official, by:ATTRIBUTE[:FOLD/FOLDS], or a share between 0 and 1"
        )
    return share


def _fold(archive: Archive, form: str) -> np.ndarray:
    name, _, numbers = form.removeprefix("by:").partition(":")
    try:
        fold, folds = (int(number) for number in (numbers or "0/5").split("/"))
    except ValueError:
        raise UserError(f"--test-split {form!r}: folds are written by:ATTRIBUTE:FOLD/FOLDS, such as 0/5") from None
    values, inverse = np.unique(archive.attribute(name), return_inverse=True)
    if not 0 <= fold < folds <= len(values) or folds < 2:
        raise UserError(f"--test-split {form!r}: needs 0 <= FOLD < FOLDS <= {len(values)}, the values of {name}")
    # What GroupKFold(shuffle=True) does: the values in random order, cut into folds of equal numbers of values.
    order = np.random.RandomState(0).permutation(len(values))
    chosen = np.array_split(order, folds)[fold]
    return np.isin(inverse, chosen)
