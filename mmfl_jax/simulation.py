"""A simulation: the rounds of a study, and the run of them all with its directory and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfl_jax import commands
from mmfl_jax.rounds import Rounds


class Simulation(Rounds):
    """Simulate federated learning: hold a federation on the device, run its rounds, score what was learned.

    Args:
        study: the options.
        federation: the clients; None to open what the study names.
        make_model: ``held modalities -> nnx.Module`` called as ``model(images, train) -> Output``; None for the
            study's own.

    Raises:
        UserError: for options that are unknown or do not fit together.
    """

    def run(
        self, run_dir: str | Path | None = None, *, resume: bool = False, quiet: bool = True, report: bool = True
    ) -> dict[str, Any]:
        """Run the study's rounds and return the summary.

        Args:
            run_dir: where to write configuration, metrics, checkpoints, summary and report; None writes nothing.
            resume: continue from the last checkpoint in ``run_dir``.
            quiet: show no progress.
            report: write figures and report.html at the end.
        """
        return commands.run(self, Path(run_dir) if run_dir else None, resume=resume, quiet=quiet, write_report=report)
