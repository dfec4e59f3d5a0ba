"""A simulation: the rounds of a study, and the run of them all with its directory and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfl_jax import commands
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.options import flag
from mmfl_jax.rounds import Rounds
from mmfl_jax.study.build import MakeModel
from mmfl_jax.study.study import OPTIONS, Study

# What :func:`mmfl_jax.study.build.open_federation` does to the archive's samples.
_ALTERING = ("missing_modalities", "owner_shift", "label_noise", "labelled_share")


class Simulation(Rounds):
    """Simulate federated learning: hold a federation on the device, run its rounds, score what was learned.

    Args:
        study: the options.
        federation: the clients, taken as they are; None to open what the study names.
        make_model: ``held modalities -> nnx.Module`` called as ``model(images, train) -> Output``; None for the
            study's own.

    Raises:
        UserError: for options that are unknown or do not fit together, or that would alter a federation that is given.
    """

    def __init__(self, study: Study, federation: Federation | None = None, *, make_model: MakeModel | None = None):
        if federation is not None:
            _check_unaltered(study)
        super().__init__(study, federation, make_model=make_model)

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


def _check_unaltered(study: Study) -> None:
    values = study.flat()
    asked = {name: values[name] for name in _ALTERING if values[name] != OPTIONS[name].default}
    if values["attack"] == "label_flip":
        asked["attack"] = "label_flip"
    for name, value in asked.items():
        raise UserError(
            f"{flag(name)} {value} alters the samples of an archive that the study opens; a federation that is given "
            "is taken as it is"
        )
