"""How a worker talks to the driver: JSON lines on standard output, ``run`` on standard input."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import workloads


@dataclasses.dataclass(frozen=True)
class Task:
    """Hold what the driver asks of a worker.

    Attributes:
      work: the workload.
      variant: of the peer.
      folder: of the files of ``workloads.write``.
      cores: to use.
    """

    work: workloads.Workload
    variant: str
    folder: pathlib.Path
    cores: int


def parse() -> Task:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("variant")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    args = parser.parse_args()
    return Task(workloads.workload(args.workload, args.clients, args.steps), args.variant, args.folder, args.cores)


# Seconds that a turn lasts at least: short rounds are run again and again, for their mean.
TURN = 3.0


def serve(main: Callable[[Task], tuple[workloads.Arrays, Callable[[], float | None], dict[str, Any]]]) -> None:
    """Do one round, write its update, then run a round at every ``run`` until standard input ends.

    Args:
      main: sets a task up and returns the update of the first round, a function that runs a round, and what else the
        rows shall tell. The function may return its own seconds; else it is timed here.
    """
    # Libraries print; the protocol's own lines take the real standard output with them.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    say = lambda line: print(json.dumps(line), file=out, flush=True)
    task = parse()
    try:
        update, run, told = main(task)
        path = task.folder / f"update_{pathlib.Path(sys.argv[0]).stem}_{task.variant}.npz"
        workloads.save(path, update)
        say({"update": str(path), **told})
        for line in sys.stdin:
            if line.strip() == "run":
                seconds: list[float] = []
                while sum(seconds) < TURN:
                    begin = time.perf_counter()
                    own = run()
                    seconds.append(time.perf_counter() - begin if own is None else own)
                    if own is not None:
                        break
                say({"seconds": sum(seconds) / len(seconds)})
    except Exception as error:
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
