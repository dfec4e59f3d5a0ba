"""The test split: samples that no client sees."""

from __future__ import annotations

import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator


def train_and_test(archive: Archive, test_split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of training and of test samples.

    Args:
      archive: the samples.
      test_split: ``official`` (the archive's own ``train`` and ``test``), ``by:ATTRIBUTE[:FOLD/FOLDS]`` (whole values
        of an attribute, so that no value is on both sides: fold FOLD of scikit-learn's
        ``GroupKFold(FOLDS, shuffle=True)`` with random state 0; default 0/5), a number between 0 and 1 (that share of
        samples, at random), or ``auto`` (official where there is one, else 0.2).
      seed: of a random share.

    Raises:
      UserError: for an unknown form, or when either side is empty.
    """
    everything = np.arange(len(archive))
    form = ("official" if archive.splits is not None else "0.2") if test_split == "auto" else test_split
    if form == "official":
        if archive.splits is None:
            raise UserError(f"--test-split official: archive {archive.name} has no official split; try 0.2")
        train, test = everything[archive.splits == "train"], everything[archive.splits == "test"]
    elif form.startswith("by:"):
        held_out = _fold(archive, form)
        train, test = everything[~held_out], everything[held_out]
    else:
        order = generator(seed, Stream.TEST).permutation(everything)
        count = round(_share(test_split, form) * len(archive))
        train, test = np.sort(order[count:]), np.sort(order[:count])
    if not len(train) or not len(test):
        raise UserError(
            f"--test-split {test_split}: {len(train)} training and {len(test)} test samples of {len(archive)}; "
            "both must have some"
        )
    return train, test


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
