"""Normalised images: by an archive's published statistics, or by those of its training samples."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from mmfl_jax.archives.base import Archive, ModalitySpec
from mmfl_jax.cluster import gathered
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.federation import Group
from mmfl_jax.federation.ragged import row_numbers

# Samples read at once: bounds the host's memory beside the result.
_READ = 512
# Clients that a warning names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """Bring raw images to zero mean and unit variance by channel; missing values (NaN) become 0, the mean.

    Attributes:
      mean: ``[channels]`` by modality, float32.
      std: ``[channels]`` by modality, float32.
      dtype: of the result: float32, or bfloat16 where the model computes in it.
    """

    mean: Mapping[str, np.ndarray]
    std: Mapping[str, np.ndarray]
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(np.float32))

    @classmethod
    def of(
        cls, federation: Federation, dtype: np.dtype | None = None, own: Sequence[np.ndarray] | None = None
    ) -> Normalizer:
        """Return the archive's published statistics, or else those of the training samples.

        Moments are sums over clients, so that a real federation can pool them without showing an image; a client
        whose moments are not finite, or far beyond the others', is left out of them with a warning.

        Args:
          federation: the clients.
          dtype: of the images that are read; None for float32.
          own: ``[clients]`` whether a client's home is on this host, a group an entry; None for all. Each host reads
            its own clients' images, and their moments go to all.

        Raises:
          UserError: for a channel in which no training sample has a finite value.
        """
        mean, std = {}, {}
        for m, spec in federation.archive.modalities.items():
            if spec.mean is not None and spec.std is not None:
                mean[m], std[m] = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
            else:
                mean[m], std[m] = _training_moments(federation, m, spec, own)
        return cls(mean, std, np.dtype(np.float32) if dtype is None else np.dtype(dtype))

    def read(self, archive: Archive, modality: str, samples: np.ndarray) -> np.ndarray:
        """Return ``[len(samples), *shape]``, normalised."""
        out = np.empty((len(samples), *archive.modalities[modality].shape), self.dtype)
        for i in range(0, len(samples), _READ):
            out[i : i + _READ] = self.apply(modality, archive.read(modality, samples[i : i + _READ]))
        return out

    def apply(self, modality: str, raw: np.ndarray) -> np.ndarray:
        """Return raw images ``[samples, ..., channels]`` normalised, float32."""
        # Rows at once: NumPy's loops over a few channels each would take half of the time of a wave that is read.
        repeats = raw.shape[-2]
        rows = raw.reshape(*raw.shape[:-2], repeats * raw.shape[-1])
        out = rows - np.tile(self.mean[modality], repeats)
        out /= np.tile(self.std[modality], repeats)
        out = out if np.isfinite(out).all() else np.nan_to_num(out, copy=False, nan=0.0)
        return out.reshape(raw.shape)


def _training_moments(
    federation: Federation, modality: str, spec: ModalitySpec, own: Sequence[np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    # A modality that no client holds is only seen in tests: every training sample then stands for it.
    numbers = range(len(federation.groups))
    held = [g for g in numbers if modality in federation.groups[g].modalities] or list(numbers)
    groups = [federation.groups[g] for g in held]
    here = np.concatenate([np.ones(len(federation.groups[g].ids), bool) if own is None else own[g] for g in held])
    # Each client's sums are nonzero on one host.
    count, total, squares = gathered(_client_moments(federation, groups, modality, spec, here)).sum(axis=0)
    if (without := count.sum(axis=1) == 0).any():
        who = _named(groups, without)
        raise UserError(f"modality {modality}: clients hold it without any value of it, and must not: {who}")
    kept = _trusted(count, total, squares)
    if not kept.all():
        warnings.warn(
            f"modality {modality}: clients with values that are infinite or over ten times the others' are left out of "
            f"the statistics that all images are normalised by, yet train on: {_named(groups, ~kept)}",
            stacklevel=3,
        )
    count, total, squares = (values[kept].sum(axis=0) for values in (count, total, squares))
    if not count.all():
        channel = spec.channels[int(count.argmin())]
        raise UserError(
            f"modality {modality}, channel {channel}: no training sample has a finite value; leave the modality out"
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A constant channel stays constant instead of becoming NaN.
    return mean.astype(np.float32), np.where(std > 1e-12, std, 1).astype(np.float32)


def _named(groups: list[Group], which: np.ndarray) -> str:
    names = [name for group in groups for name in group.names]
    ids = np.flatnonzero(which).tolist()
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{', '.join(names[i] for i in ids[:_NAMED])}{more} ({len(ids)} of {len(names)})"


def _client_moments(
    federation: Federation, groups: list[Group], modality: str, spec: ModalitySpec, here: np.ndarray
) -> np.ndarray:
    """Return ``[3, clients, channels]`` of the groups' clients: the number of values, their sum, and that of squares.

    Those of clients that are not ``here`` are zeros.
    """
    samples = np.concatenate([group.samples for group in groups])
    begins = np.cumsum([0, *(len(group.ids) for group in groups)])
    owners = np.concatenate([begin + row_numbers(group.offsets) for begin, group in zip(begins, groups)])
    samples, owners = samples[here[owners]], owners[here[owners]]
    moments = np.zeros((3, begins[-1], spec.shape[-1]))
    count, total, squares = moments
    for i in range(0, len(samples), _READ):
        owner = owners[i : i + _READ]
        raw = federation.archive.read(modality, samples[i : i + _READ])
        raw = raw.reshape(len(owner), -1, spec.shape[-1]).astype(np.float64)
        there = ~np.isnan(raw)
        # Infinite values make infinite sums, which tell whose they are.
        with np.errstate(invalid="ignore"):
            np.add.at(count, owner, there.sum(axis=1))
            np.add.at(total, owner, np.where(there, raw, 0).sum(axis=1))
            np.add.at(squares, owner, np.where(there, raw * raw, 0).sum(axis=1))
    return moments


def _trusted(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return ``[clients]`` whose moments are pooled: finite, and in no channel far larger than the others'.

    Far larger is a root mean square over ten times the clients' median, where that is also beyond five median
    deviations of its logarithm, so that channels that differ much between honest owners (heights, snow) stay.
    Two clients cannot tell which of them is wrong.
    """
    kept = np.isfinite(total).all(axis=1) & np.isfinite(squares).all(axis=1)
    if kept.sum() < 3:
        return kept
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.log(squares / count) / 2
    size[~(kept[:, None] & np.isfinite(size))] = np.nan  # no value, or nothing but zeros
    for values in size.T:
        if np.isfinite(values).any():
            above = values - np.nanmedian(values)
            kept &= ~(above > max(np.log(10), 5 * np.nanmedian(np.abs(above))))
    return kept
