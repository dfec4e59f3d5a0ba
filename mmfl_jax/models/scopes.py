"""The scope of each variable: who averages it."""

from __future__ import annotations

from collections.abc import Sequence

from mmfl_jax.models.multimodal import UNIFIED

SHARED = "shared"
PRIVATE = "private"


def scope(name: str, private: Sequence[str] = ()) -> str:
    """Return ``shared``, ``private``, or the modality over whose holders the variable is averaged.

    Args:
      name: of the variable, such as ``encoders/s1/stem/kernel``.
      private: words; a variable stays with the client if one of them is in the name of a module it belongs to.
        ``*`` is every variable, ``norm`` gives FedBN (Li et al., ICLR 2021), ``head`` personal heads (Arivazhagan et
        al., 2019).
    """
    parts = name.split("/")
    if "*" in private or any(word in part for word in private for part in parts[:-1]):
        return PRIVATE
    if parts[0] in ("encoders", "projectors", "heads") and parts[1] != UNIFIED:
        return parts[1]
    return SHARED
