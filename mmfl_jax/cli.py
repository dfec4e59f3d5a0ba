"""The command line: run, sweep, evaluate, predict, compare, report, prepare, list."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction

from mmfl_jax.arguments import parse
from mmfl_jax.errors import UserError, one_line
from mmfl_jax.maps.options import MapOptions
from mmfl_jax.options import Positive, options
from mmfl_jax.streams import guarded, say
from mmfl_jax.study import Study, experiments, load_study


@options
class Run:
    """Run a study, and write its run directory."""

    study: OmitArgPrefixes[Study]
    run_dir: Path | None = None
    """Run directory; runs/NAME by default."""
    resume: bool = False
    """Continue the run in --run-dir from its last checkpoint."""
    quiet: bool = False
    """Show no progress and no table."""
    bounds: bool = False
    """Run the two bounds too: all samples in one place (centralized), and each client alone (local)."""
    tensorboard: bool = False
    """Write TensorBoard files into the run directory."""
    compilation_cache: Path | None = None
    """Keep compiled rounds in this directory, for the next run; on a CPU they then do without oneDNN's convolutions."""


def run(reference: str, arguments: list[str]) -> None:
    """Run the study ``reference`` with the options in ``arguments``."""
    study = load_study(reference)
    chosen = parse(Run, f"mmfl-jax run {reference}", arguments, Run(study=study))
    before, study = study.flat(), chosen.study
    given = {name for name, value in study.flat().items() if value != before[name]}
    import jax

    from mmfl_jax import commands
    from mmfl_jax.files import writing
    from mmfl_jax.runs import directory
    from mmfl_jax.simulation import Simulation
    from mmfl_jax.study.build import check
    from mmfl_jax.study.unused import unused

    check(study)
    _make_devices(study.execution.devices)
    if chosen.resume and chosen.run_dir is None:
        raise UserError("--resume needs --run-dir, the directory of the run to continue")
    run_dir = chosen.run_dir or directory.fresh_run_dir(study)
    directory.check(run_dir, study, chosen.resume)  # refuse before the archive is read
    if chosen.compilation_cache is not None:
        with writing(chosen.compilation_cache):
            chosen.compilation_cache.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(chosen.compilation_cache))
    simulation = Simulation(study)
    for line in unused(study, simulation.federation.archive, given):
        say(line)
    summary = commands.run(
        simulation,
        run_dir,
        resume=chosen.resume,
        quiet=chosen.quiet,
        tensorboard=chosen.tensorboard,
        bounds=chosen.bounds,
    )
    if not chosen.quiet:
        from rich.console import Console

        from mmfl_jax.report import result_table

        Console().print(result_table(summary))
        print(f"report: {run_dir / 'report.html'}")


def _make_devices(devices: int) -> None:
    """Make this many devices of the CPU, which is one unless told otherwise; each core can train clients of its own."""
    import jax

    if 0 < devices <= (os.cpu_count() or 1):
        with contextlib.suppress(RuntimeError):  # JAX is running already: what it has is what there is
            jax.config.update("jax_num_cpu_devices", devices)


@options
class Sweep:
    """Run a study for every combination of values and every seed, and compare; the same command goes on after a stop.

    Each run has a directory of its own in --run-dir, beside sweep.json, comparison.json, .md and .png.
    """

    study: OmitArgPrefixes[Study]
    vary: UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE: a field of the study and its values; may be given again for further fields."""
    folds: UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE: as --vary, but the values' runs count as one, by their mean."""
    seeds: Positive = 1
    """How many seeds, from --seed on."""
    run_dir: Path | None = None
    """Directory of the sweep."""
    quiet: bool = False
    """Show no progress and no tables."""


def sweep(reference: str, arguments: list[str]) -> None:
    """Sweep over the study ``reference`` with the options in ``arguments``."""
    study = load_study(reference)
    chosen = parse(Sweep, f"mmfl-jax sweep {reference}", arguments, Sweep(study=study))
    if chosen.run_dir is None:
        raise UserError("mmfl-jax sweep needs --run-dir, the directory of the sweep")
    from mmfl_jax.runs.grid import make_grid, open_grid

    grid = make_grid(chosen.study, chosen.vary, chosen.folds, chosen.seeds)
    studies = open_grid(chosen.run_dir, grid)
    _make_devices(max(study.execution.devices for study in studies))
    from mmfl_jax import commands

    commands.sweep(studies, chosen.run_dir, tuple(grid.folds), quiet=chosen.quiet)


def evaluate(run_dir: Annotated[Path, Positional], archive: str | None = None, best: bool = False) -> None:
    """Score a run's last checkpoint for every modality set.

    Args:
        run_dir: of the run.
        archive: score on another archive of the same classes: its official test samples, or all of it.
        best: score the checkpoint with the best score so far, not the last.
    """
    from rich.console import Console

    from mmfl_jax import runs
    from mmfl_jax.files import write_whole
    from mmfl_jax.report import result_table
    from mmfl_jax.study.build import open_archive

    simulation = runs.load(run_dir, best=best, training=False)
    scores = simulation.evaluate(open_archive(simulation.study.replace(archive=archive)) if archive else None)
    name, shown = simulation.study.data.archive if archive is None else archive, run_dir / "evaluation.json"
    found = {"round": simulation.round_number, "archive": name, "evaluation": scores}
    write_whole(shown, json.dumps(found, indent=2))
    table = {"rounds": simulation.round_number, "evaluation": scores}
    if archive is None:
        table["baseline"] = simulation.baseline()
    Console().print(result_table(table))
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
        run_dir: of the run.
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
) -> None:
    """Show runs side by side, seeds of one configuration as mean and spread, and their paired differences.

    Args:
        run_dirs: of the runs.
        output: draw scores against rounds into this PNG, against bytes and simulated time into others beside it.
        target: tell what it cost to reach this score of the modalities together, such as f1_micro=0.45; by default
            95 % of the best.
        baseline: name of the row that the others are compared with; the first by default.
        folds: fields, such as test_split, whose runs count as one by their mean.
    """
    from rich.console import Console

    from mmfl_jax import report

    runs, averaged = list(run_dirs), [field.replace("-", "_") for field in folds]
    goal = report.parse_target(target) if target is not None else None
    for table in report.comparison_tables(report.compare(runs, folds=averaged, target=goal, baseline=baseline)):
        Console().print(table)
    if output is not None:
        print(*report.write_comparison(runs, output, folds=averaged), sep="\n")


def report(run_dir: Annotated[Path, Positional]) -> None:
    """Write report.html and figures/ of a run again.

    Args:
        run_dir: of the run.
    """
    from mmfl_jax.report import write_report

    print(write_report(run_dir))


def prepare(
    source: Annotated[str, Positional],
    output: Path,
    modalities: str = "",
    image_size: int = 0,
    bands: Literal[10, 12] = 12,
    workers: int = 0,
    quiet: bool = False,
) -> None:
    """Copy an archive into a TFDS data set from which it is read many times faster; the same command goes on.

    Args:
        source: the archive, such as bigearthnet:DIR.
        output: directory of the copy; it opens as KIND:DIR, too.
        modalities: to copy, such as s1,s2; empty for all.
        image_size: bring images to this many pixels a side; 0 keeps their own size, as BigEarthNet always does.
        bands: of Sentinel-2 in BigEarthNet: 12, or 10 without the 60 m bands.
        workers: processes that read and write; 0 for one a core.
        quiet: show no progress.
    """
    from mmfl_jax.archives.prepared.layout import DAMAGED
    from mmfl_jax.archives.prepared.prepare import prepare
    from mmfl_jax.report.counting import Counting

    if workers < 0:
        raise UserError(f"--workers {workers}: at least 1, or 0 for one a core")
    with Counting("samples", quiet) as counting:
        done = prepare(
            source,
            output,
            modalities=[name.strip() for name in modalities.split(",")] if modalities else None,
            image_size=image_size or None,
            bands=bands,
            workers=workers,
            progress=counting,
        )
    if done["damaged"]:
        say(f"{done['damaged']} samples are damaged and left out; {output / DAMAGED} says which and why")
    if done["with_missing_pixels"]:
        say(f"{done['with_missing_pixels']} samples have pixels that are no measurements; they count as missing")
    kind = source.partition(":")[0]
    print(f"{done['samples']} samples, {done['bytes'] / 1e9:.2f} GB, in {output}; open them as {kind}:{output}")


def list_(what: Annotated[Literal["studies", "methods", "algorithms", "archives"], Positional]) -> None:
    """List what there is to choose from.

    Args:
        what: to list.
    """
    from mmfl_jax import archives
    from mmfl_jax.algorithms import algorithms
    from mmfl_jax.methods import methods

    rows = {
        "studies": lambda: {name: _headline(path) for name, path in experiments().items()},
        "methods": lambda: {name: f"{method.summary} ({method.reference})" for name, method in methods().items()},
        "algorithms": lambda: {name: entry.line for name, entry in algorithms().items()},
        "archives": archives.archives,
    }[what]()
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        print(f"{name:{width}}  {line}")


def _headline(path: Path) -> str:
    """Return the first line of a Python file's docstring, or what is wrong with the file."""
    try:
        return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]
    except (SyntaxError, ValueError) as error:
        return f"cannot be read: {one_line(error)}"


STUDY_COMMANDS: dict[str, Callable[[str, list[str]], None]] = {"run": run, "sweep": sweep}
COMMANDS: dict[str, Callable[..., None]] = {
    "evaluate": evaluate,
    "predict": predict,
    "compare": compare,
    "report": report,
    "prepare": prepare,
    "list": list_,
}

USAGE = """usage: mmfl-jax COMMAND ...

  run STUDY [--run-dir DIR] [--resume] [OPTIONS]   run a study of experiments/, or a .py file; every field is an option
  sweep STUDY --vary FIELD=V,V... --seeds N --run-dir DIR [--folds FIELD=V,V] [OPTIONS]
                                                   run every combination of values and seeds, go on, compare
  evaluate RUN_DIR [--archive A]                   score a run's model on its test samples, or on another archive's
  predict RUN_DIR --input DIR --output DIR [--probabilities] [--stac] [OPTIONS]
                                                   map scenes with a run's model: GeoTIFFs and pictures
  compare RUN_DIR... [--output FILE.png] [--target METRIC=VALUE] [--baseline NAME] [--folds FIELD]
                                                   show runs side by side, seeds of one configuration together
  report RUN_DIR                                   write report.html and figures/ again
  prepare SOURCE --output DIR [--workers N]        copy an archive into a TFDS data set that is read many times faster
  list studies|methods|algorithms|archives          show what there is to choose from

`mmfl-jax run STUDY --help` lists the options; --debug shows the traceback of an error."""


def _dispatch(arguments: list[str]) -> None:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
    elif command in STUDY_COMMANDS:
        if not rest or rest[0].startswith("-"):
            print(USAGE)
            raise UserError(f"mmfl-jax {command} needs a STUDY first, such as quickstart")
        STUDY_COMMANDS[command](rest[0], rest[1:])
    elif command in COMMANDS:
        parse(COMMANDS[command], f"mmfl-jax {command}", rest)
    else:
        raise UserError(f"command {command!r} is unknown; one of {', '.join([*STUDY_COMMANDS, *COMMANDS])}")


def _one_line(message: Warning | str, *place: Any, **more: Any) -> None:
    say(str(message))


def _of_main_thread(*error: Any) -> None:
    # TensorStore's threads print what they meet on a full disk; the checkpoint's own error says it.
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(*error)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; leave with exit code 2 after a mistake of the user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if not debug:
        warnings.showwarning = _one_line  # a user wants what happened, not the line of ours that says so
        sys.excepthook = _of_main_thread
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Orbax and absl tell at length what they do; a user wants the table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR if debug else logging.CRITICAL)
    from mmfl_jax.runs.signals import Stopped, watched

    try:
        with watched(), guarded():
            _dispatch(arguments)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        pass
    except (UserError, OSError) as error:
        if debug:
            raise
        say(str(error))
        sys.exit(2)
    except Stopped as stop:
        say(str(stop))
        sys.exit(128 + stop.signal)
