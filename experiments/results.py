"""Measure the studies that decide, and write RESULTS.md from what their runs left: no number in it is written by hand.

Command: python experiments/results.py run RUNS [TABLE ...] (goes on where it was stopped), then
  python experiments/results.py write RUNS (tables that RUNS has no runs of stay in RESULTS.md as they are)
Time: stands beside each table. WORLDCEREAL is the path of worldcereal_canada.npz, TILES the folder of real tiles
"""

import dataclasses
import math
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

from mmfl_jax.cli import main
from mmfl_jax.errors import UserError, told_in_one_line
from mmfl_jax.report import compare, comparison_markdown
from mmfl_jax.report.comparison.intervals import paired_difference, statistic
from mmfl_jax.report.presentation import METRICS, main_metrics, score_text
from mmfl_jax.runs.record import RunRecord, read_run
from mmfl_jax.runs.values import fused_set

PAGE = Path(__file__).parent / "RESULTS.md"
METHODS = "method=mf,mf+fw,mf+mim,mf+fw+mim,unified"
# Archives that nobody may ship: a path of one's own, and what is written in its place.
HELD = {
    os.environ.get("WORLDCEREAL", "worldcereal_canada.npz"): "worldcereal_canada.npz",
    os.environ.get("TILES", "tiles"): "tiles",
}
WORLDCEREAL, TILES = HELD


def sweep(study: str, options: tuple[str, ...], seeds: int, folder: str) -> list[str]:
    """Return the arguments of mmfl-jax for a sweep."""
    return ["sweep", study, *options, "--seeds", str(seeds), "--run-dir", folder]


@dataclasses.dataclass(frozen=True)
class Table:
    """Say what a table asks, and the sweep that answers it: all rows are compared with the first."""

    asks: str
    study: str
    vary: tuple[str, ...]
    options: tuple[str, ...] = ()
    seeds: int = 8

    def commands(self, folder: str) -> list[list[str]]:
        """Return the arguments of mmfl-jax that make the runs in a folder."""
        vary = [word for text in self.vary for word in ("--vary", text)]
        return [sweep(self.study, (*self.options, *vary), self.seeds, folder)]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Say which options are chosen by validation samples; only the chosen ones, the first and the bounds meet the test.

    Attributes:
      asks: the question.
      study: by name.
      options: that all have.
      candidates: by name, the options to choose among; the first are those that one would begin with.
      bounds: by name, options that are no federation.
      seeds: of each.
    """

    asks: str
    study: str
    options: tuple[str, ...]
    candidates: dict[str, str]
    bounds: dict[str, str]
    seeds: int = 4

    def commands(self, folder: str) -> list[list[str]]:
        """Return the arguments of mmfl-jax that make the runs in a folder: a sweep for each set of options."""
        common = (*self.options, "--quiet", "--name")  # quiet: else all would show their test scores
        return [
            sweep(self.study, (*common, name, *shlex.split(options)), self.seeds, f"{folder}/{name}")
            for name, options in (self.candidates | self.bounds).items()
        ]


_WORLD = ("--archive", f"arrays:{WORLDCEREAL}")
# The task loss is small: a weight, warm-up and memory with which InfoNCE does not outweigh it.
_GENTLE = ("--mim-weight", "0.02", "--mim-warmup", "5", "--mim-momentum", "0.9")
# WorldCereal's study takes a step a round on a server with Adam; these are plain epochs of the clients' Adam.
_EPOCHS = "--server-schedule constant --client-optimizer adam --client-learning-rate 1e-3 --local-steps 0"
_STEPS = "--server-schedule constant --client-optimizer sgd --client-learning-rate 0.3 --local-steps 0 --rounds 60"
TABLES = {
    "twin-methods": Table("What does each module bring on the twin, one country and one sensor per owner?",
                          "quickstart", (METHODS,)),
    "twin-chosen": Choice(
        "Which algorithm closes the federation's gap on the twin?", "quickstart",
        ("--method", "mf", "--samples", "8000", "--validation-share", "0.2", "--evaluate-every", "100"),
        {"fedavg": "", "fedavg-epochs2": "--local-epochs 2", "fedavg-rounds24": "--rounds 24",
         "fedavg-rounds48": "--rounds 48 --local-epochs 0.25",
         "fedavg-rate1.5": "--algorithm fedavg:1.5", "fedavgm-0.5": "--algorithm fedavgm:0.5",
         "fedadam-0.003": "--algorithm fedadam:rate=3e-3", "fedadam-0.01": "--algorithm fedadam:rate=1e-2",
         "feddyn": "--algorithm feddyn", "feddyn-0.1": "--algorithm feddyn:0.1",
         "feddyn-0.001": "--algorithm feddyn:0.001", "feddyn-rounds24": "--algorithm feddyn --rounds 24",
         "feddyn-rounds48": "--algorithm feddyn --rounds 48 --local-epochs 0.25",
         "scaffold": "--algorithm scaffold --client-optimizer sgd --client-learning-rate 1.0"},
        {"centralized": "--algorithm centralized", "local": "--algorithm local"}),
    "twin-shift": Table("Owners' sensors differ: whose moments should normalise at test?", "quickstart",
                        ("evaluation_moments=pooled,own", "method=mf,mf+fw"), ("--owner-shift", "0.5")),
    "twin-stranger": Table("And for owners who never trained: whole countries held out?", "quickstart",
                           ("evaluation_moments=pooled,own", "method=mf,mf+fw"),
                           ("--owner-shift", "0.5", "--test-split", "by:country", "--validation-share", "0.2")),
    "twin-places": Table("Does MIM help where owners see the same sites with different sensors?", "quickstart",
                         ("method=mf,mf+mim",), ("--modality-assignment", "split", "--mim-positives", "places",
                                                  *_GENTLE)),
    "twin-pairs": Table("Does MIM help where every client has all modalities?", "quickstart",
                        ("method=mf,mf+mim",), ("--modality-assignment", "all", "--mim-positives", "pairs", *_GENTLE)),
    "twin-few-labels": Table("Does MIM help with few labels and many images?", "quickstart",
                             ("method=mf,mf+mim",), ("--modality-assignment", "all", "--mim-positives", "pairs",
                                                      "--labelled-share", "0.1", *_GENTLE)),
    "twin-rare": Table("Does FW or MIM help where one owner of ten holds the radar?", "quickstart",
                       ("method=mf,mf+fw,mf+mim",),
                       ("--partition", "dirichlet:1", "--clients", "10", "--modality-assignment", "rare:s1",
                        "--samples", "8000", *_GENTLE)),
    "twin-tiles": Table("What do FW and MIM bring to pixel-wise land cover, on the twin's tiles?", "land_cover",
                        ("method=mf,mf+fw+mim,unified",),
                        ("--samples", "400", "--image-size", "32", "--rounds", "10", "--evaluate-every", "10")),
    "real-tiles": Table("And on real tiles, one block per owner?", "real_tiles", ("method=mf,mf+fw+mim,unified",),
                        ("--archive", f"tiles:{TILES}")),
    "twin-scenes": Table("What do FedRSCLIP's two prompts bring on scenes, beside a shared one and local ones?",
                         "fedrsclip_demo", ("method=fedrsclip,promptfl,local-prompts",),
                         ("--rounds", "8", "--evaluate-every", "8")),
    "worldcereal-methods": Table("What does each module bring on real crop series, whole regions per owner?",
                                 "worldcereal", (METHODS,), _WORLD),
    "worldcereal-gap": Table("FedAdam or FedAvg on WorldCereal, with one local step a round?", "worldcereal",
                             ("algorithm=fedadam:rate=1e-3:tau=1e-6,fedavg",), (*_WORLD, "--method", "mf")),
    "worldcereal-chosen": Choice(
        "Which algorithm closes the federation's gap on WorldCereal?", "worldcereal",
        (*_WORLD, "--method", "mf", "--validation-share", "0.2", "--evaluate-every", "500"),
        {"fedavg": f"--algorithm fedavg {_EPOCHS} --rounds 60",
         "fedavg-epochs2": f"--algorithm fedavg {_EPOCHS} --rounds 60 --local-epochs 2",
         "fedavg-rounds120": f"--algorithm fedavg {_EPOCHS} --rounds 120",
         "fedavg-rate1.5": f"--algorithm fedavg:1.5 {_EPOCHS} --rounds 60",
         "feddyn": f"--algorithm feddyn {_EPOCHS} --rounds 60",
         "scaffold": f"--algorithm scaffold {_STEPS}",
         "fednova": f"--algorithm fednova {_STEPS}", "fedavg-steps500": "--algorithm fedavg",
         "fedadam-0.0003": "--algorithm fedadam:rate=3e-4:tau=1e-6",
         "fedadam-0.001": "--algorithm fedadam:rate=1e-3:tau=1e-6",
         "fedadam-0.003": "--algorithm fedadam:rate=3e-3:tau=1e-6"},
        {"centralized": f"--algorithm centralized {_EPOCHS} --rounds 60",
         "local": f"--algorithm local {_EPOCHS} --rounds 60"}),
}  # fmt: skip


def page(runs: Path, before: str = "") -> str:
    """Return RESULTS.md of the sweeps in a folder, with a page's sections from before for tables not measured there."""
    kept = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)(?=\n## |\n\Z)", before, flags=re.MULTILINE | re.DOTALL))
    parts, missing = ["# Results\n", " ".join(_HEAD.split()) + "\n"], []
    for name, table in TABLES.items():
        make = _section if isinstance(table, Table) else _chosen
        section = make(runs / name, table) or kept.get(table.asks, "")
        if section:
            parts += [f"## {table.asks}\n", section]
        else:
            missing += [f"- {table.asks} `{_shown(name, table)}`"]
    if missing:
        parts += ["## Not measured yet\n", *missing]
    return "\n".join([*parts, ""])


_HEAD = """Written by `python experiments/results.py write RUNS`. A score is the mean over seeds, each of which draws
    data, partition, weights and batches anew; a difference is paired by seed, with its 95 % interval of Student's t. If
    an interval contains 0, the data do not show a difference, whatever the means. Scores on the twin say
    nothing about real images. Seconds were taken beside other work: they do not compare rows."""


def _section(folder: Path, table: Table) -> str:
    runs = [read_run(path.parent) for path in folder.glob("*/summary.json")]
    planned = math.prod(len(text.split(",")) for text in table.vary)
    seeds = Counter(tuple(_place(run, table)) for run in runs)
    if len(seeds) < planned or min(seeds.values()) < 2:  # some row could not be compared at all
        return ""
    runs.sort(key=lambda run: (_place(run, table), run.config["seed"]))
    rows = compare([run.path for run in runs])
    facts = f"`{_shown(folder.name, table)}`, {len(runs)} of {planned * table.seeds} runs; {_machine(runs)}\n"
    return "\n".join([facts, comparison_markdown(rows), *_told(rows), *_own(rows), ""])


def _chosen(folder: Path, choice: Choice) -> str:
    """Return what validation samples choose, and then what that scores on the test's."""
    found = {
        name: [read_run(path.parent) for path in sorted((folder / name).glob("*/summary.json"))]
        for name in choice.candidates | choice.bounds
    }
    runs = [run for of_one in found.values() for run in of_one]
    if not runs:
        return ""
    planned = choice.seeds * len(found)
    lines = [f"`{_shown(folder.name, choice)}`, {len(runs)} of {planned} runs; {_machine(runs)}\n"]
    if any(len(found[name]) < choice.seeds for name in choice.candidates):
        return "\n".join([*lines, "Nothing is chosen before all of them have been measured.\n"])
    rows = compare([run.path for name in choice.candidates for run in found[name]], validation=True)
    scored = fused_set(rows[0]["scores"])
    metric = _first_metric(rows[0]["scores"][scored])
    value = lambda row: row["scores"][scored][metric]
    best = max(rows, key=lambda row: value(row)["mean"])["runs"][0].parent.name
    lines += [f"| options | {METRICS[metric]} of {scored}, validation samples | difference |", "| --- | ---: | ---: |"]
    for row in rows:
        name, apart = row["runs"][0].parent.name, row["against"] and row["against"]["scores"][scored][metric]
        shown = f"<br>`{choice.candidates[name]}`" * bool(choice.candidates[name])
        lines += [f"| {f'**{name}**' if name == best else name}{shown} | {_mean(value(row))} | {_apart(apart)} |"]
    lines += [f"\nValidation samples choose **{best}**. Its test scores, beside the first row's and the bounds':\n"]
    names = dict.fromkeys([next(iter(choice.candidates)), best, *choice.bounds])
    tested = compare([run.path for name in names for run in found[name]])
    return "\n".join([*lines, comparison_markdown(tested), *_told(tested), ""])


def _machine(runs: list[RunRecord]) -> str:
    versions = runs[0].summary["versions"]
    seconds = sum(line["seconds"] for run in runs for line in run.rounds)
    minutes = max(1, round(seconds / 60))
    spent = f"{minutes} minute{'s' * (minutes != 1)} of rounds"
    return f"JAX {versions.get('jax', '?')} on {versions.get('device', '?')}, {spent}"


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
        metric = _first_metric(scores)
        if metric is None:
            continue
        found, other = scores[metric], row["against"]["baseline"]
        if found["low"] is None:
            what = f"cannot be compared with {other} yet"
        elif found["low"] <= 0 <= found["high"]:
            what = f"does not differ significantly from {other}"
        else:
            what = f"is {'above' if found['mean'] > 0 else 'below'} {other}"
        told.append(
            f"- {row['name']} {what} in {METRICS[metric]} of {name} ({found['n']} pair{'s' * (found['n'] != 1)})."
        )
    return told


def _first_metric(scores: dict) -> str | None:
    """Return the score that a table leads with."""
    return next(iter(main_metrics({"": dict.fromkeys(scores, 1.0)})), None)


def _own(rows: list[dict]) -> list[str]:
    """Return the accuracy of owners' own models on classes in their own shares, where they have models of their own."""
    found = [{run.config["seed"]: run.summary.get("personal") for run in map(read_run, row["runs"])} for row in rows]
    if not all(one for own in found for one in own.values()):
        return []
    means = [{seed: one["mean"] for seed, one in own.items()} for own in found]
    lines = ["\n| run | owners' own accuracy | difference |", "| --- | ---: | ---: |"]
    for row, own in zip(rows, means):
        apart = paired_difference(own, means[0]) if own is not means[0] else None
        lines += [f"| **{row['name']}** | {_mean(statistic(list(own.values())))} | {_apart(apart)} |"]
    return lines


def _mean(found: dict) -> str:
    return f"{score_text(found['mean'])} ± {score_text(found['std'])}"


def _apart(found: dict | None) -> str:
    """Write a paired difference with its interval, nothing for the row that the others are compared with."""
    if found is None or found["mean"] is None:
        return ""
    told = f" [{found['low']:+.3f}, {found['high']:+.3f}]" if found["low"] is not None else ""
    return f"{found['mean']:+.3f}{told}"


def _shown(name: str, table: Table | Choice) -> str:
    first, *more = table.commands(f"RUNS/{name}")
    text = shlex.join(["mmfl-jax", *first])
    for path, word in HELD.items():
        text = text.replace(f":{path}", f":{word}")
    return f"{text}` and {len(more)} sweeps like it: `python experiments/results.py run RUNS {name}" if more else text


def run(runs: Path, names: list[str]) -> None:
    """Run the sweeps of some tables, or all; those that finished are not run again.

    Raises:
      UserError: for a table that there is not; at the end, where runs failed, as was told on standard error.
    """
    if unknown := [name for name in names if name not in TABLES]:
        raise UserError(f"table {unknown[0]!r} is unknown; one of {', '.join(TABLES)}")
    failed = []
    for name in names or TABLES:
        for command in TABLES[name].commands(str(runs / name)):
            print(shlex.join(command), file=sys.stderr, flush=True)
            try:
                main(command)
            except SystemExit as error:
                if error.code != 2:  # stopped
                    raise
                failed.append(name)
    if failed:
        raise UserError(f"runs failed in {', '.join(dict.fromkeys(failed))}; the same command tries them again")


if __name__ == "__main__":
    with told_in_one_line():
        if len(sys.argv) < 3 or sys.argv[1] not in ("run", "write"):
            raise UserError("usage: python experiments/results.py run|write RUNS [TABLE ...]")
        if sys.argv[1] == "run":
            run(Path(sys.argv[2]), sys.argv[3:])
        elif not Path(sys.argv[2]).is_dir():
            raise UserError(f"{sys.argv[2]} is no folder; RUNS is where the runs of the tables lie")
        else:
            PAGE.write_text(page(Path(sys.argv[2]), PAGE.read_text() if PAGE.exists() else ""))
