"""Commands on run directories: evaluate, predict, compare and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional

from mmfl_jax.errors import UserError
from mmfl_jax.maps.options import MapOptions
from mmfl_jax.options import nearest
from mmfl_jax.study import OPTIONS


def evaluate(run_dir: Annotated[Path, Positional], archive: str | None = None, best: bool = False) -> None:
    """Score a run's last checkpoint for every modality set.

    Args:
        run_dir: directory of the run.
        archive: score on another archive of the same classes: its official test samples, or all of it.
        best: score the checkpoint with the best score on validation samples, not the last.
    """
    from rich.console import Console

    from mmfl_jax import runs
    from mmfl_jax.files import write_whole
    from mmfl_jax.report import result_table
    from mmfl_jax.study.build import open_archive

    simulation = runs.load(run_dir, best=best, training=False)
    # Another archive on disk is scored whole, whatever the run took of its own.
    other = {"archive": archive, **({"samples": 0} if ":" in (archive or "") else {})}
    scores = simulation.evaluate(open_archive(simulation.study.replace(**other)) if archive else None)
    name, shown = simulation.study.data.archive if archive is None else archive, run_dir / "evaluation.json"
    found = {"round": simulation.round_number, "archive": name, "evaluation": scores}
    table = {"rounds": simulation.round_number, "evaluation": scores}
    if archive is None:
        table["baseline"] = simulation.baseline()
    Console().print(result_table(table))
    write_whole(shown, json.dumps(found, indent=2))
    print(f"round {simulation.round_number} on {name}, written to {shown}")


_MAPS = MapOptions()


def predict(
    run_dir: Annotated[Path, Positional],
    input: Path,
    output: Path,
    maps: OmitArgPrefixes[MapOptions] = _MAPS,
    quiet: bool = False,
) -> None:
    """Map the scenes of a folder with a run's model, or classify its patches.

    Args:
        run_dir: directory of the run.
        input: holds a folder of GeoTIFFs for each modality (s1, s2, ...), one file name a scene; of a run with one
            modality, the files themselves. Of a run that classifies patches: an archive of the run's kind.
        output: folder for the maps, SCENE.tif and what stands beside it; of patches, for a table of probabilities.
        maps: how scenes are cut and what is written.
        quiet: show no progress.
    """
    from mmfl_jax.maps import check_folders, classifies_patches, predict_maps, predict_patches, predictor_of

    if not input.is_file():
        check_folders(input, output)  # before the model is made
    if classifies_patches(run_dir):
        print(predict_patches(run_dir, input, output, maps.format))
    else:
        print(*predict_maps(predictor_of(run_dir), input, output, maps, quiet=quiet), sep="\n")


def compare(
    run_dirs: Annotated[tuple[Path, ...], Positional],
    output: Path | None = None,
    target: str | None = None,
    baseline: str | None = None,
    folds: tuple[str, ...] = (),
    validation: bool = False,
) -> None:
    """Show runs side by side, seeds of one configuration as mean and spread, and their paired differences.

    Args:
        run_dirs: directories of the runs.
        output: draw scores against rounds into this PNG, against bytes and simulated time into others beside it.
        target: tell what it cost to reach this score of the modalities together, such as f1_micro=0.45; by default
            95 % of the best.
        baseline: name of the row that the others are compared with; the first by default.
        folds: fields, such as test_split, whose runs count as one by their mean.
        validation: tell the scores on validation samples, by which options may be chosen, in place of the test's.
    """
    from rich.console import Console

    from mmfl_jax import report

    runs, averaged = list(run_dirs), [field.replace("-", "_") for field in folds]
    _check_compare(output, target, averaged, validation)
    goal = report.parse_target(target) if target is not None else None
    rows = report.compare(runs, folds=averaged, target=goal, baseline=baseline, validation=validation)
    for table in report.comparison_tables(rows):
        Console().print(table)
    if output is not None:
        print(*report.write_comparison(runs, output, folds=averaged), sep="\n")


def _check_compare(output: Path | None, target: str | None, folds: list[str], validation: bool) -> None:
    """Raise UserError for options that do not fit, before any run is read."""
    if unknown := [field for field in folds if field not in OPTIONS]:
        raise UserError(f"--folds {unknown[0]} is no field of a study; did you mean {nearest(unknown[0], OPTIONS)}?")
    if output is not None and output.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--output {str(output)!r}: write it as .png, .pdf or .svg")
    for option, given in (("--output", output), ("--target", target)):
        if validation and given is not None:
            raise UserError(f"{option} tells the scores on test samples over rounds; leave it out with --validation")


def report(run_dir: Annotated[Path, Positional]) -> None:
    """Write report.html and figures/ of a run again.

    Args:
        run_dir: directory of the run.
    """
    from mmfl_jax.report import write_report

    print(write_report(run_dir))
