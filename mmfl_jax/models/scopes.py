"""The scope of a variable: which variables stay with their client. All others go to the holders' average."""

from __future__ import annotations

from collections.abc import Sequence


def is_private(name: str, words: Sequence[str]) -> bool:
    """Return whether a variable stays with the client.

    Args:
      name: of the variable, such as ``encoders/s1/stem/kernel``.
      words: a variable is private if one of them is in the name of a module it belongs to. ``*`` is every variable,
        ``norm`` gives FedBN (Li et al., ICLR 2021), ``head`` personal heads (Arivazhagan et al., 2019).
    """
    return "*" in words or any(word in part for word in words for part in name.split("/")[:-1])
