"""Write scores and losses as TensorBoard files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.report.presentation import Evaluation
from mmfl_jax.runs.listeners import Listener, Privacy
from mmfl_jax.runs.values import is_number


class TensorBoardWriter(Listener):
    """Write a run's numbers to ``RUN_DIR/tensorboard``, without TensorFlow.

    Args:
      run_dir: the run directory.

    Raises:
      UserError: if tensorboard is not installed.
    """

    def __init__(self, run_dir: Path):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise UserError('tensorboard is not installed: pip install "mmfl_jax[tensorboard]"') from error
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._open = lambda: EventFileWriter(str(Path(run_dir) / "tensorboard"))
        self._writer: Any = None

    def begin(self, first: int, total: int) -> None:
        """Open a file; before, the directory may be another run's."""
        self._writer = self._open()

    def round(self, row: Mapping[str, Any]) -> None:
        """Write what was measured in a round, the numbers of one ``round`` line."""
        self._write(row["round"], {f"round/{key}": value for key, value in row.items() if key != "round"})

    def evaluation(self, round: int, evaluation: Evaluation, privacy: Privacy = None) -> None:
        """Write scores by modality set, as ``evaluation/METRIC/SET`` so that the sets of a score stand together."""
        scores = {f"evaluation/{key}/{name}": v for name, s in evaluation.items() for key, v in s.items()}
        self._write(round, scores | {f"privacy/{key}": value for key, value in (privacy or {}).items()})
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, round: int, values: Mapping[str, Any]) -> None:
        scalars = [
            self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if is_number(value)
        ]
        self._writer.add_event(self._event(wall_time=time.time(), step=round, summary=self._summary(value=scalars)))
