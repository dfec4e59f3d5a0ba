"""The model of a run, ready to answer for scenes and patches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.archives.base import ModalitySpec
from mmfl_jax.errors import UserError
from mmfl_jax.files import writing
from mmfl_jax.maps.tables import write_table
from mmfl_jax.rounds import Rounds
from mmfl_jax.runs import load
from mmfl_jax.study.build import open_archive
from mmfl_jax.tasks import task_of


class RunPredictor:
    """Answer for windows of images by the global model of a run (:class:`mmfl_jax.maps.predictor.Predictor`).

    Args:
        simulation: with the state to answer by.

    Raises:
        UserError: for a run whose labels are not by pixel.
    """

    def __init__(self, simulation: Rounds):
        archive = simulation.federation.archive
        if not task_of(archive).spatial:
            raise UserError(
                f"--input: a run of {archive.task} labels answers for patches, not for the pixels of scenes"
            )
        self._simulation = simulation
        self.modalities: Mapping[str, ModalitySpec] = {
            m: spec for m, spec in archive.modalities.items() if any(m in seen for seen in simulation.scored_sets)
        }
        self.class_names, self.class_colors = archive.class_names, archive.class_colors
        self.tile = simulation.study.training.crop or next(iter(archive.modalities.values())).shape[0]

    def probabilities(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return float32 ``[n, height, width, classes]`` of raw images by modality."""
        normalized = {m: jnp.asarray(self._simulation.normalizer.apply(m, x)) for m, x in inputs.items()}
        return np.asarray(jax.device_get(self._simulation.answer(normalized)))


def predictor_of(run_dir: Path) -> RunPredictor:
    """Return the model of a run of labels by pixel, ready to draw maps.

    Raises:
        UserError: no run there, or one of other labels.
    """
    return RunPredictor(_loaded(run_dir))


def classifies_patches(run_dir: Path) -> bool:
    """Return whether a run's labels are of whole patches; its model then makes a table."""
    from mmfl_jax.runs.record import read_run

    return read_run(run_dir).federation["task"] != "pixel"


def predict_patches(run_dir: Path, source: Path, output: Path, table: str) -> Path:
    """Write the probabilities of a folder's patches as a table, and return its file.

    Args:
        run_dir: of the run.
        source: an archive of the kind that the run learned from, as a path.
        output: folder for the table, made if it is not there.
        table: ``parquet`` or ``csv``.

    Raises:
        UserError: a table that is there already, no run there, or an archive that cannot be opened as the run's was.
    """
    path = output / f"predictions.{table}"
    if path.exists():
        raise UserError(f"{path}: is there already; move it, or choose another --output")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output is a folder")
    simulation = _loaded(run_dir)
    study = simulation.study
    kind = study.data.archive.partition(":")[0]
    archive = open_archive(study.replace(archive=f"{kind}:{source}", samples=0))
    named = archive.attributes.get("file", np.arange(len(archive)))
    ids = archive.attributes.get("patch_id", named)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    found = simulation.predict(np.arange(len(archive)), archive=archive)
    write_table(path, [str(name) for name in ids], archive.class_names, found)
    return path


def _loaded(run_dir: Path) -> Rounds:
    return load(run_dir, training=False)
