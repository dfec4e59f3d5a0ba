"""Owners: whose each sample is, those included that nobody trains on; and sensors that differ from owner to owner."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mmfl_jax.archives.base import Archive, Kept
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.federation import Federation
from mmfl_jax.federation.partition import read_partition

# Samples by whose spread offsets are scaled, where an archive publishes none.
_MEASURED = 256


def owners_of(federation: Federation, partition: str, seed: int) -> np.ndarray:
    """Return ``[samples]`` the number of each sample's owner.

    Clients of the same samples are one owner (``split``). A sample that no client holds (test, validation) is of the
    owner who has its value of the partition's attributes: a value that no owner has is a stranger's, numbered after
    all owners. Where a partition has no attributes, such samples are dealt at random.

    Args:
      federation: the clients.
      partition: that dealt the samples to them.
      seed: of the deal.
    """
    archive = federation.archive
    owners = np.full(len(archive), -1)
    for group in federation.groups:
        firsts = np.repeat(group.samples[group.offsets[:-1]], group.sizes)
        owners[group.samples] = firsts
    held = owners >= 0
    owners[held] = np.unique(owners[held], return_inverse=True)[1]
    count = owners.max() + 1
    form = read_partition(partition)
    if not form.startswith("by:"):
        owners[~held] = generator(seed, Stream.OWNERS).integers(count, size=(~held).sum())
        return owners
    values = np.zeros(len(archive), np.int64)
    for name in form.removeprefix("by:").split("+"):
        codes = np.unique(archive.attribute(name), return_inverse=True)[1]
        values = np.unique(values * (codes.max() + 1) + codes, return_inverse=True)[1]
    of_value = np.full(values.max() + 1, -1)
    of_value[values[held]] = owners[held]
    strange = np.flatnonzero(of_value < 0)
    of_value[strange] = count + np.arange(len(strange))
    return np.where(held, owners, of_value[values])


class Shifted(Kept):
    """Show another archive as its owners' sensors see it: channels mixed, then scaled and moved.

    A pixel ``z``, in deviations from the mean, becomes ``gain * (z + mix z) + offset`` with one draw an owner and
    modality: the logarithm of a gain and an offset have deviation ``strength``, a row of ``mix`` has that length on
    average. Labels stay: this is shift of features alone.

    Args:
        archive: of the samples.
        owners: ``[samples]`` whose each is.
        strength: 0 changes nothing.
        seed: of the draws; an owner's depends on its number and the modality alone.
    """

    def __init__(self, archive: Archive, owners: np.ndarray, strength: float, seed: int):
        super().__init__(archive)
        self._owners, self._strength, self._seed = owners, strength, seed
        self.notes = archive.notes | {"owner_shift": strength}
        self._scales: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read from the archive, and shift each sample as its owner's sensor does; missing values stay missing."""
        indices = self.checked(modality, indices)
        mean, std = self._scale(modality)
        images = self._archive.read(modality, indices)
        for owner in np.unique(self._owners[indices]):
            chosen = self._owners[indices] == owner
            z = (images[chosen] - mean) / std
            gain, offset, mix = self._sensor(modality, int(owner))
            moved = gain * (z + np.nan_to_num(z, nan=0.0) @ mix) + offset
            images[chosen] = moved * std + mean
        return images

    def _sensor(self, modality: str, owner: int) -> tuple[Any, Any, Any]:
        channels = self.modalities[modality].shape[-1]
        rng = generator(self._seed, Stream.SENSORS, owner, *modality.encode())
        draw = lambda *shape: np.float32(self._strength) * rng.standard_normal(shape, np.float32)
        return np.exp(draw(channels)), draw(channels), draw(channels, channels) / channels**0.5

    def _scale(self, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation by channel: the published ones, or those of some samples."""
        if modality not in self._scales:
            spec = self.modalities[modality]
            mean, std = spec.mean, spec.std
            if mean is None or std is None:
                chosen = np.unique(np.linspace(0, len(self) - 1, _MEASURED).astype(np.int64))
                rows = self._archive.read(modality, chosen).reshape(-1, spec.shape[-1])
                mean, std = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
                mean, std = np.nan_to_num(mean), np.where(std > 0, std, 1)
            self._scales[modality] = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        return self._scales[modality]


def with_owner_shift(federation: Federation, partition: str, strength: float, seed: int) -> Federation:
    """Return the federation whose owners' sensors differ (:class:`Shifted`).

    Args:
      federation: the clients.
      partition: see :func:`owners_of`.
      strength: of the shift.
      seed: of the draws.
    """
    owners = owners_of(federation, partition, seed)
    return dataclasses.replace(federation, archive=Shifted(federation.archive, owners, strength, seed))
