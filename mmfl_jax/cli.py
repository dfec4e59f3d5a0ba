"""The command line: run, evaluate, compare, report, list."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from mmfl_jax.errors import UserError
from mmfl_jax.study import Study, experiments, load_study


@dataclasses.dataclass(frozen=True)
class Run:
    """Run a study, and write its run directory."""

    study: OmitArgPrefixes[Study]
    run_dir: Path | None = None
    """Run directory; runs/NAME by default."""
    resume: bool = False
    """Continue the run in --run-dir from its last checkpoint."""
    quiet: bool = False
    """Show no progress and no table."""
    tensorboard: bool = False
    """Write TensorBoard files into the run directory."""
    compilation_cache: Path | None = None
    """Keep compiled rounds in this directory, for the next run; on a CPU they then do without oneDNN's convolutions."""


def run(reference: str, arguments: list[str]) -> None:
    """Run the study ``reference`` with the options in ``arguments``."""
    study = load_study(reference)
    chosen = tyro.cli(Run, prog=f"mmfl-jax run {reference}", args=arguments, default=Run(study=study))
    study = chosen.study
    import jax

    from mmfl_jax import run_directory, runs
    from mmfl_jax.build import check
    from mmfl_jax.simulation import Simulation

    check(study)
    if 0 < study.devices <= (os.cpu_count() or 1):
        # A CPU is one device unless told otherwise; with one a core, each core trains clients of its own.
        with contextlib.suppress(RuntimeError):  # JAX is running already: what it has is what there is
            jax.config.update("jax_num_cpu_devices", study.devices)
    if chosen.resume and chosen.run_dir is None:
        raise UserError("--resume needs --run-dir, the directory of the run to continue")
    run_dir = chosen.run_dir or run_directory.fresh_run_dir(study)
    if chosen.compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(chosen.compilation_cache))
    run_directory.Writer(run_dir, study, chosen.resume)  # refuse before the archive is read
    summary = runs.run(
        Simulation(study), run_dir, resume=chosen.resume, quiet=chosen.quiet, tensorboard=chosen.tensorboard
    )
    if not chosen.quiet:
        from rich.console import Console

        from mmfl_jax.report import result_table

        Console().print(result_table(summary))
        print(f"report: {run_dir / 'report.html'}")


def evaluate(run_dir: Annotated[Path, Positional], archive: str | None = None, best: bool = False) -> None:
    """Score a run's last checkpoint for every modality set.

    Args:
        run_dir: of the run.
        archive: score on another archive of the same classes: its official test samples, or all of it.
        best: score the checkpoint with the best score so far, not the last.
    """
    from rich.console import Console

    from mmfl_jax import runs
    from mmfl_jax.build import open_archive
    from mmfl_jax.report import result_table

    simulation = runs.load(run_dir, best=best)
    scores = simulation.evaluate(open_archive(simulation.study.replace(archive=archive)) if archive else None)
    name, shown = simulation.study.archive if archive is None else archive, run_dir / "evaluation.json"
    shown.write_text(json.dumps({"round": simulation.round_number, "archive": name, "evaluation": scores}, indent=2))
    table = {"rounds": simulation.round_number, "evaluation": scores}
    if archive is None:
        table["baseline"] = simulation.baseline()
    Console().print(result_table(table))
    print(f"round {simulation.round_number} on {name}, written to {shown}")


def compare(run_dirs: Annotated[tuple[Path, ...], Positional], output: Path | None = None) -> None:
    """Show runs side by side, seeds of one configuration as mean and spread.

    Args:
        run_dirs: of the runs.
        output: draw scores against rounds into this PNG.
    """
    from rich.console import Console

    from mmfl_jax import report

    Console().print(report.comparison_table(report.compare(list(run_dirs))))
    if output is not None:
        print(report.write_comparison(list(run_dirs), output))


def report(run_dir: Annotated[Path, Positional]) -> None:
    """Write report.html and figures/ of a run again.

    Args:
        run_dir: of the run.
    """
    from mmfl_jax.report import write_report

    print(write_report(run_dir))


def list_(what: Annotated[Literal["studies", "algorithms", "archives"], Positional]) -> None:
    """List what there is to choose from.

    Args:
        what: to list.
    """
    from mmfl_jax import archives
    from mmfl_jax.algorithms import algorithms

    rows = {
        "studies": lambda: {name: _headline(path) for name, path in experiments().items()},
        "algorithms": lambda: {name: entry.summary for name, entry in algorithms().items()},
        "archives": archives.archives,
    }[what]()
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        print(f"{name:{width}}  {line}")


def _headline(path: Path) -> str:
    """Return the first line of a Python file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


COMMANDS: dict[str, Callable[..., None]] = {
    "evaluate": evaluate,
    "compare": compare,
    "report": report,
    "list": list_,
}

USAGE = """usage: mmfl-jax COMMAND ...

  run STUDY [--run-dir DIR] [--resume] [OPTIONS]   run a study of experiments/, or a .py file; every field is an option
  evaluate RUN_DIR [--archive A]                   score a run's model on its test samples, or on another archive's
  compare RUN_DIR... [--output FILE.png]           show runs side by side, seeds of one configuration together
  report RUN_DIR                                   write report.html and figures/ again
  list studies|algorithms|archives                 show what there is to choose from

`mmfl-jax run STUDY --help` lists the options; --debug shows the traceback of an error."""


def _dispatch(arguments: list[str]) -> None:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "run":
        if not rest or rest[0].startswith("-"):
            print(USAGE)
            raise UserError("mmfl-jax run needs a STUDY first, such as quickstart")
        run(rest[0], rest[1:])
    elif command in COMMANDS:
        tyro.cli(COMMANDS[command], prog=f"mmfl-jax {command}", args=rest)
    else:
        raise UserError(f"command {command!r} is unknown; one of run, {', '.join(COMMANDS)}")


def _one_line(message: Warning | str, *place: Any, **more: Any) -> None:
    print(f"mmfl-jax: {' '.join(str(message).split())}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; leave with exit code 2 after a mistake of the user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if not debug:
        warnings.showwarning = _one_line  # a user wants what happened, not the line of ours that says so
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Orbax and absl tell at length what they do; a user wants the table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    from mmfl_jax.runs import Stopped

    try:
        _dispatch(arguments)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:  # OSError: a disk that is full, a file that may not be written
        if debug:
            raise
        print(f"mmfl-jax: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(f"mmfl-jax: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signal)
