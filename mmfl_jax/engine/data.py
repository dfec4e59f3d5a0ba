"""From archive to device: normalised images, 0/1 labels, the samples of each group client after client."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from mmfl_jax.archives.base import Archive, ModalitySpec
from mmfl_jax.engine.batches import GroupData
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.objectives.losses import calibration_offsets

# Samples read at once: bounds the host's memory beside the result.
_READ = 512


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
    def of(cls, federation: Federation, dtype: np.dtype | None = None) -> Normalizer:
        """Return the archive's published statistics, or else those of the training samples.

        Moments are sums over clients, so that a real federation can pool them without showing an image.

        Raises:
          UserError: for a channel in which no training sample has a value.
        """
        mean, std = {}, {}
        for m, spec in federation.archive.modalities.items():
            if spec.mean is not None and spec.std is not None:
                mean[m], std[m] = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
            else:
                mean[m], std[m] = _training_moments(federation, m, spec)
        return cls(mean, std, np.dtype(np.float32) if dtype is None else np.dtype(dtype))

    def read(self, archive: Archive, modality: str, samples: np.ndarray) -> np.ndarray:
        """Return ``[len(samples), *shape]``, normalised."""
        out = np.empty((len(samples), *archive.modalities[modality].shape), self.dtype)
        mean, std = self.mean[modality], self.std[modality]
        for i in range(0, len(samples), _READ):
            raw = archive.read(modality, samples[i : i + _READ])
            out[i : i + _READ] = np.nan_to_num((raw - mean) / std, nan=0.0)
        return out


def _training_moments(federation: Federation, modality: str, spec: ModalitySpec) -> tuple[np.ndarray, np.ndarray]:
    holders = [group.samples for group in federation.groups if modality in group.modalities]
    # A modality that no client holds is only seen in tests: every training sample then stands for it.
    samples = np.unique(np.concatenate(holders or [group.samples for group in federation.groups]))
    count = np.zeros(spec.shape[-1])
    total, squares = np.zeros_like(count), np.zeros_like(count)
    for i in range(0, len(samples), _READ):
        raw = federation.archive.read(modality, samples[i : i + _READ]).reshape(-1, spec.shape[-1]).astype(np.float64)
        there = ~np.isnan(raw)
        count += there.sum(axis=0)
        total += np.where(there, raw, 0).sum(axis=0)
        squares += np.where(there, raw * raw, 0).sum(axis=0)
    if not count.all():
        channel = spec.channels[int(count.argmin())]
        raise UserError(
            f"modality {modality}, channel {channel}: no training sample has a value; leave the modality out"
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A constant channel stays constant instead of becoming NaN.
    return mean.astype(np.float32), np.where(std > 1e-12, std, 1).astype(np.float32)


def multi_hot(federation: Federation, group: int) -> np.ndarray:
    """Return ``[samples, classes]`` uint8 of 0/1 of a group's labels; one-hot for ``multiclass``."""
    archive, labels = federation.archive, federation.labels(federation.groups[group])
    if archive.task == "multilabel":
        return np.ascontiguousarray(labels, np.uint8)
    return (labels[:, None] == np.arange(len(archive.class_names))).astype(np.uint8)


def group_data(
    federation: Federation,
    normalizer: Normalizer,
    *,
    read_images: bool = True,
    places: bool = False,
    calibration: str = "none",
    calibration_strength: float = 1.0,
    attack: np.ndarray | None = None,
) -> tuple[GroupData, ...]:
    """Return the samples of every group, as NumPy arrays.

    Args:
      federation: the clients.
      normalizer: of their images.
      read_images: False leaves ``images`` empty, to be read wave by wave.
      places: whether the relay has a slot for every place.
      calibration: of client logits (:func:`mmfl_jax.objectives.losses.calibration_offsets`).
      calibration_strength: of it.
      attack: ``[clients]`` what each client's change is multiplied with; None where all are honest.
    """
    archive = federation.archive
    counts = [federation.label_counts(group) for group in federation.groups]
    totals = np.sum([c.sum(axis=0) for c in counts], axis=0)
    out = []
    for g, (group, count) in enumerate(zip(federation.groups, counts)):
        offsets = None
        if calibration != "none":
            offset = calibration_offsets(
                calibration, archive.task, jnp.asarray(count), jnp.asarray(totals), calibration_strength
            )
            offsets = np.asarray(offset)
        out.append(
            GroupData(
                images={m: normalizer.read(archive, m, group.samples) for m in group.modalities if read_images},
                labels=multi_hot(federation, g),
                places=federation.slots(group).astype(np.int32) if places else None,
                begins=group.offsets[:-1].astype(np.int32),
                sizes=group.sizes.astype(np.int32),
                ids=group.ids.astype(np.int32),
                offsets=offsets,
                attack=None if attack is None else attack[group.ids].astype(np.float32),
            )
        )
    return tuple(out)
