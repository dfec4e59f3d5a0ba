"""The command line: run, sweep, plan, evaluate, predict, compare, report, prepare, list."""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from mmfl_jax.cli.archives import prepare
from mmfl_jax.cli.arguments import parse
from mmfl_jax.cli.listing import list_
from mmfl_jax.cli.planning import plan
from mmfl_jax.cli.runs import compare, evaluate, predict, report
from mmfl_jax.cli.streams import guarded, say
from mmfl_jax.cli.studies import run, sweep
from mmfl_jax.errors import UserError

STUDY_COMMANDS: dict[str, Callable[[str, list[str]], None]] = {"run": run, "sweep": sweep, "plan": plan}
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
  plan STUDY [--topology v5e:16x16] [--json] [--figure FILE] [OPTIONS]
                                                   what a round needs: memory, network, time; here, or on TPUs elsewhere
  evaluate RUN_DIR [--archive A] [--best]          score a run's model on its test samples, or on another archive's
  predict RUN_DIR --input DIR --output DIR [--probabilities] [--stac] [OPTIONS]
                                                   map scenes with a run's model: GeoTIFFs and pictures
  compare RUN_DIR... [--output FILE.png] [--target METRIC=VALUE] [--baseline NAME] [--folds FIELD] [--validation]
                                                   show runs side by side, seeds of one configuration together
  report RUN_DIR                                   write report.html and figures/ again
  prepare SOURCE --output DIR [--workers N]        copy an archive into a TFDS data set that is read many times faster
  list studies|methods|algorithms|archives          show what there is to choose from

`mmfl-jax COMMAND --help` lists the options; --version tells the version, --debug shows the traceback of an error."""


def _dispatch(arguments: list[str]) -> None:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "--version":
        print(f"mmfl-jax {version('mmfl_jax')}")
    elif command in STUDY_COMMANDS:
        if rest[:1] in (["-h"], ["--help"]):  # any study shows the options, its own values as defaults
            rest = ["quickstart", *rest]
        if not rest or rest[0].startswith("-"):
            print(USAGE)
            raise UserError(f"{command} needs a STUDY first, such as quickstart")
        STUDY_COMMANDS[command](rest[0], rest[1:])
    elif command in COMMANDS:
        parse(COMMANDS[command], f"mmfl-jax {command}", rest)
    else:
        raise UserError(f"command {command!r} is unknown; one of {', '.join([*STUDY_COMMANDS, *COMMANDS])}")


def _one_line(message: Warning | str, *place: Any, **more: Any) -> None:
    from mmfl_jax import cluster

    if cluster.leads():
        say(str(message))


# On a full disk TensorStore's threads print what they meet, one way or the other; the checkpoint's own error says it.
def _of_main_thread(*error: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(*error)


def _of_an_object(hook: Callable[[Any], Any], unraisable: Any) -> None:
    if unraisable.object is not None:
        hook(unraisable)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; leave with exit code 2 after a mistake of the user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if not debug:
        warnings.showwarning = _one_line  # a user wants what happened, not the line of ours that says so
        sys.excepthook = _of_main_thread
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # of Orbax, after an array it cannot write
        sys.unraisablehook = functools.partial(_of_an_object, sys.unraisablehook)
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Orbax and absl tell at length what they do, asyncio each array that Orbax cannot write; a user wants the table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import logging

    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR if debug else logging.CRITICAL)
    from mmfl_jax import cluster
    from mmfl_jax.runs.signals import Stopped, watched

    cluster.debug = debug
    try:
        with watched(), guarded():
            _dispatch(arguments)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        pass
    except Stopped as stop:  # all processes stop together, and wait for each other
        if cluster.leads():
            say(str(stop))
        sys.exit(128 + stop.signal)
    except Exception as error:
        if cluster.several():  # at its end Python would wait for the others, who may be waiting for this one
            cluster.end(error)
        if debug or not isinstance(error, UserError | OSError):
            raise
        say(str(error))
        sys.exit(2)
