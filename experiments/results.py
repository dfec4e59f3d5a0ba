"""Measure the studies that decide, and write RESULTS.md from what their runs left: no number in it is written by hand.

Command: python experiments/results.py run RUNS [TABLE ...] (goes on where it was stopped), then
  python experiments/results.py write RUNS > experiments/RESULTS.md
Time: stands beside each table; WorldCereal's needs WORLDCEREAL, the path of worldcereal_canada.npz
"""

import dataclasses
import math
import os
import shlex
import sys
from pathlib import Path

from mmfl_jax.cli import main
from mmfl_jax.errors import UserError
from mmfl_jax.report import compare, comparison_markdown
from mmfl_jax.report.presentation import METRICS, main_metrics
from mmfl_jax.runs.record import RunRecord, read_run
from mmfl_jax.runs.values import fused_set

METHODS = "method=mf,mf+fw,mf+mim,mf+fw+mim,unified"
WORLDCEREAL = os.environ.get("WORLDCEREAL", "worldcereal_canada.npz")


@dataclasses.dataclass(frozen=True)
class Table:
    """Say what a table asks, and the sweep that answers it: all rows are compared with the first."""

    asks: str
    study: str
    vary: tuple[str, ...]
    options: tuple[str, ...] = ()
    seeds: int = 8

    def command(self, name: str) -> list[str]:
        """Return the arguments of mmfl-jax, but for the directory's parent."""
        vary = [word for text in self.vary for word in ("--vary", text)]
        return ["sweep", self.study, *self.options, *vary, "--seeds", str(self.seeds), "--run-dir", name]


_WORLD = ("--archive", f"arrays:{WORLDCEREAL}")
# The task loss is small: a weight, warm-up and memory with which InfoNCE does not outweigh it.
_GENTLE = ("--mim-weight", "0.02", "--mim-warmup", "5", "--mim-momentum", "0.9")
TABLES = {
    "twin-methods": Table("What does each module bring on the twin, a country and one sensor an owner?", "quickstart",
                          (METHODS,)),
    "twin-gap": Table("How far is the federation from all samples in one place, and from each owner alone?",
                      "quickstart", ("algorithm=fedavg,centralized,local,scaffold,feddyn,fedadam",),
                      ("--method", "mf")),
    "twin-shift": Table("Owners' sensors differ: whose moments should normalise at test?", "quickstart",
                        ("evaluation_moments=pooled,own", "method=mf,mf+fw"), ("--owner-shift", "0.5")),
    "twin-stranger": Table("And for owners who never trained: whole countries held out?", "quickstart",
                           ("evaluation_moments=pooled,own", "method=mf,mf+fw"),
                           ("--owner-shift", "0.5", "--test-split", "by:country", "--validation-share", "0.2")),
    "twin-places": Table("Does MIM help where owners see the same places with different sensors?", "quickstart",
                         ("method=mf,mf+mim",), ("--modality-assignment", "split", "--mim-positives", "places",
                                                  *_GENTLE)),
    "twin-pairs": Table("Does MIM help where every client has all modalities?", "quickstart",
                        ("method=mf,mf+mim",), ("--modality-assignment", "all", "--mim-positives", "pairs", *_GENTLE)),
    "twin-few-labels": Table("Does MIM help with few labels and many images?", "quickstart",
                             ("method=mf,mf+mim",), ("--modality-assignment", "all", "--mim-positives", "pairs",
                                                      "--labelled-share", "0.1", *_GENTLE)),
    "worldcereal-methods": Table("What does each module bring on real series of crops, regions an owner?",
                                 "worldcereal", (METHODS,), _WORLD),
    "worldcereal-gap": Table("How far is the federation from all samples in one place?", "worldcereal",
                             ("algorithm=fedadam:rate=1e-3:tau=1e-6,fedavg",), (*_WORLD, "--method", "mf")),
}  # fmt: skip


def page(runs: Path) -> str:
    """Return RESULTS.md of the sweeps in a folder."""
    parts, missing = ["# Results\n", " ".join(_HEAD.split()) + "\n"], []
    for name, table in TABLES.items():
        found = [read_run(path.parent) for path in sorted((runs / name).glob("*/summary.json"))]
        if found:
            parts += [_section(name, table, found)]
        else:
            missing += [f"- {table.asks} `{_shown(name, table)}`"]
    if missing:
        parts += ["## Not measured yet\n", *missing]
    return "\n".join(parts)


_HEAD = """Written by `python experiments/results.py write RUNS`. A score is the mean over seeds, each of which draws
    data, partition, weights and batches anew; a difference is paired by seed, with its 95 % interval of Student's t. An
    interval that has 0 in it does not tell two rows apart, however far apart their means are. Scores on the twin say
    nothing about real images."""


def _section(name: str, table: Table, runs: list[RunRecord]) -> str:
    runs = sorted(runs, key=lambda run: (_place(run, table), run.config["seed"]))
    rows = compare([run.path for run in runs])
    versions = runs[0].summary["versions"]
    planned = table.seeds * math.prod(len(text.split(",")) for text in table.vary)
    seconds = sum(line["seconds"] for run in runs for line in run.rounds)
    machine = f"JAX {versions.get('jax', '?')} on {versions.get('device', '?')}, {seconds / 60:.0f} minutes of rounds"
    lines = [f"## {table.asks}\n", f"`{_shown(name, table)}`, {len(runs)} of {planned} runs; {machine}\n"]
    return "\n".join([*lines, comparison_markdown(rows), *_told(rows), ""])


def _place(run: RunRecord, table: Table) -> list[int]:
    """Return which of each field's values a run has."""
    varied = [text.partition("=") for text in table.vary]
    return [values.split(",").index(str(run.config[field])) for field, _, values in varied]


def _told(rows: list[dict]) -> list[str]:
    """Return what a reader may conclude, a line a row that is compared."""
    told = []
    for row in rows:
        name = fused_set(row["scores"])
        scores = (row["against"] or {}).get("scores", {}).get(name, {})
        metrics = main_metrics({"": dict.fromkeys(scores, 1.0)})
        if not metrics:
            continue
        found, other = scores[metrics[0]], row["against"]["baseline"]
        if found["low"] is None:
            what = f"cannot be compared with {other} yet"
        elif found["low"] <= 0 <= found["high"]:
            what = f"is not told apart from {other}"
        else:
            what = f"is {'above' if found['mean'] > 0 else 'below'} {other}"
        told.append(
            f"- {row['name']} {what} in {METRICS[metrics[0]]} of {name} ({found['n']} pair{'s' * (found['n'] != 1)})."
        )
    return told


def _shown(name: str, table: Table) -> str:
    hidden = [word.replace(WORLDCEREAL, "worldcereal_canada.npz") for word in table.command(f"RUNS/{name}")]
    return f"mmfl-jax {shlex.join(hidden)}"


def run(runs: Path, names: list[str]) -> None:
    """Run the sweeps of some tables, or all; those that finished are not run again."""
    if unknown := [name for name in names if name not in TABLES]:
        raise UserError(f"table {unknown[0]!r} is unknown; one of {', '.join(TABLES)}")
    for name in names or TABLES:
        main(TABLES[name].command(str(runs / name)))


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("run", "write"):
        sys.exit("usage: python experiments/results.py run|write RUNS [TABLE ...]")
    try:
        if sys.argv[1] == "run":
            run(Path(sys.argv[2]), sys.argv[3:])
        else:
            print(page(Path(sys.argv[2])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
