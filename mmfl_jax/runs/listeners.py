"""What hears of a run while it goes: its metrics' file, progress on the terminal, TensorBoard, your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Epsilon and delta of the rounds so far; None where the algorithm promises nothing.
Privacy = Mapping[str, float] | None


class Listener:
    """Hear of a run's rounds; of what is not overridden nothing comes."""

    def begin(self, first: int, total: int) -> None:
        """Hear that the run goes on after round ``first`` (0: it starts) towards round ``total``."""

    def round(self, row: Mapping[str, Any]) -> None:
        """Hear what was measured in a round, with its number ``round``."""

    def evaluation(self, round: int, evaluation: Mapping[str, Mapping[str, Any]], privacy: Privacy = None) -> None:
        """Hear the scores by modality set after a round, 0 before training, and what privacy has cost so far."""

    def close(self) -> None:
        """Hear that no more comes, also after an error."""
