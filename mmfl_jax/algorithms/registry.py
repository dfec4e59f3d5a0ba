"""Algorithms by name: a base, and modules joined to it by ``+``; and those that learn on features of CLIP."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import optax

from mmfl_jax.algorithms.algorithm import Algorithm, federated_averaging
from mmfl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Entry:
    """Describe an algorithm.

    Attributes:
      summary: one line for ``mmfl-jax list algorithms``.
      design: of the model: ``modality``, ``unified`` or ``separate``; on image features of a frozen CLIP ``prompts``
        or ``linear``.
      whitening: whether FW is on.
      mim: whether MIM is on.
      prompts: names of the prompts that are learned, of ``shared`` and ``private``.
      alignment: whether PACL and CMFAC are on.
      private: words that make variables private, beside the study's own.
      make: ``server optimizer -> Algorithm``.
    """

    summary: str
    design: str = "modality"
    whitening: bool = False
    mim: bool = False
    prompts: tuple[str, ...] = ()
    alignment: bool = False
    private: tuple[str, ...] = ()
    make: Callable[[optax.GradientTransformation], Algorithm] = federated_averaging

    @property
    def on_features(self) -> bool:
        """Return whether the model sees features of a frozen CLIP, not images."""
        return self.design in ("prompts", "linear")

    @property
    def trains(self) -> bool:
        """Return whether anything is trained."""
        return self.design != "prompts" or bool(self.prompts)


_ENTRIES: dict[str, Entry] = {
    "unified": Entry("FedAvg of one encoder over all channels, zeros for a missing modality", design="unified"),
    "separate": Entry("FedAvg of one model per modality, logits averaged at the end", design="separate"),
    "mf": Entry("multi-modal fusion: an encoder per modality, averaged over its holders; a shared head"),
    "mf+fw": Entry("MF with feature whitening", whitening=True),
    "mf+mim": Entry("MF with mutual information maximization", mim=True),
    "mf+fw+mim": Entry("the full framework: MF, FW and MIM", whitening=True, mim=True),
    "fedrsclip": Entry(
        "prompts on a frozen CLIP, one shared and one private, aligned by PACL and CMFAC",
        design="prompts",
        prompts=("shared", "private"),
        alignment=True,
        private=("private",),
    ),
    "promptfl": Entry("one shared prompt on a frozen CLIP, averaged", design="prompts", prompts=("shared",)),
    "local-prompts": Entry(
        "a prompt a client on a frozen CLIP; nothing travels",
        design="prompts",
        prompts=("private",),
        private=("private",),
    ),
    "clip": Entry("zero-shot CLIP by --prompt-template; nothing is trained", design="prompts"),
    "linear": Entry("FedAvg of a linear head on features of a frozen CLIP", design="linear"),
}


def algorithms() -> dict[str, Entry]:
    """Return every algorithm by name."""
    return dict(_ENTRIES)


def register(name: str, entry: Entry) -> None:
    """Add an algorithm under ``name``, for studies and the command line."""
    _ENTRIES[name] = entry


def find(name: str) -> Entry:
    """Return the algorithm ``name``; the order of modules joined by ``+`` does not matter.

    Raises:
      UserError: for an unknown name.
    """
    by_parts = {frozenset(known.split("+")): entry for known, entry in _ENTRIES.items()}
    entry = by_parts.get(frozenset(name.lower().split("+")))
    if entry is None:
        raise UserError(f"--algorithm {name!r} is unknown; one of {', '.join(_ENTRIES)}")
    return entry
