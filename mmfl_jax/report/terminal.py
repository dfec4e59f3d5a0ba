"""Show a run on the terminal: progress by round, and the table of scores at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmfl_jax.report.presentation import (
    METRICS,
    Evaluation,
    main_metrics,
    score_text,
    seconds_text,
    shown_bounds,
    shown_metrics,
    skipped_text,
)
from mmfl_jax.runs.listeners import Listener, Privacy
from mmfl_jax.runs.values import as_float, fused_set, is_number, ordered_sets

if TYPE_CHECKING:
    from rich.table import Table

#: Where no terminal shows a bar, a line says at least this often (seconds) that the run goes on.
HEARTBEAT = 60.0


class RoundProgress(Listener):
    """Show rounds, loss, score of all modalities together, time of a round and time left.

    Draws a bar on stderr where that is a terminal and rich is installed; elsewhere writes one plain line for each
    evaluation, and one a minute between them.

    Args:
      quiet: write nothing.
    """

    def __init__(self, quiet: bool = False):
        self._total, self._done, self._quiet, self._skipped = 0, 0, quiet, 0
        self._metrics: Mapping[str, Any] = {}
        self._score = self._privacy = ""
        self._started: tuple[float, int] | None = None
        self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def begin(self, first: int, total: int) -> None:
        """Show that the run goes on after round ``first`` towards round ``total``."""
        self._total, self._done = total, first
        self._bar = None if self._quiet else _terminal_bar(total)
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total, completed=first, note="compiling")

    def close(self) -> None:
        """Let go of the terminal."""
        if self._bar is not None:
            self._bar.stop()

    def round(self, row: Mapping[str, Any]) -> None:
        """Show that a round has ended.

        Args:
          row: what was measured, with ``round``, ``loss`` and ``seconds``.
        """
        now = time.monotonic()
        self._metrics, self._done = row, int(row["round"])
        self._skipped += row.get("skipped_clients") or 0
        # The first round compiles, so the time left is reckoned from its end.
        self._started = self._started or (now, self._done)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=self._note())
        elif now - self._last_line > HEARTBEAT:
            self._line(self._note())

    def evaluation(self, round: int, evaluation: Evaluation, privacy: Privacy = None) -> None:
        """Show the scores of an evaluation.

        Args:
          round: the round after which it was made, 0 before training.
          evaluation: scores by modality set.
          privacy: what the rounds so far have cost, where the algorithm promises it.
        """
        self._privacy = f"ε {privacy['epsilon']:.3g}" if privacy else ""
        metric, fused = next(iter(main_metrics(evaluation)), None), fused_set(evaluation)
        if metric is None or fused is None:
            return
        self._score = f"{METRICS[metric]} {score_text(evaluation[fused].get(metric))} ({fused})"
        if self._bar is not None:
            self._bar.update(self._task, note=self._note())
        else:
            by_set = "  ".join(
                f"{name} {score_text(evaluation[name].get(metric))}" for name in ordered_sets(evaluation)
            )
            self._line(self._note(f"{METRICS[metric]}: {by_set}"), round)

    def _note(self, score: str | None = None) -> str:
        parts = []
        if self._metrics:
            parts = [f"loss {as_float(self._metrics.get('loss')):.4f}"]
        if score or self._score:
            parts.append(score or self._score)
        if self._privacy:
            parts.append(self._privacy)
        if self._skipped:
            parts.append(f"{skipped_text(self._skipped)} left out")
        if is_number(self._metrics.get("seconds")):
            parts.append(f"{seconds_text(self._metrics['seconds'])}/round")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"{seconds_text(left)} left")
        return " · ".join(parts)

    def _seconds_left(self) -> float | None:
        if self._started is None or self._done >= self._total:
            return None
        start, first = self._started
        if self._done > first:
            return (time.monotonic() - start) / (self._done - first) * (self._total - self._done)
        return None

    def _line(self, note: str, round: int | None = None) -> None:
        if not self._quiet:
            self._last_line = time.monotonic()
            print(f"round {self._done if round is None else round}/{self._total} · {note}", file=sys.stderr, flush=True)


class SweepProgress:
    """Say on standard error which run of how many it is, and how long the others will take."""

    def __init__(self, total: int, quiet: bool):
        self._total, self._quiet = total, quiet
        self._spent: list[float] = []
        self._began = 0.0
        #: Whether rounds are not shown: lines of many runs would bury what counts.
        self.no_rounds = quiet or not sys.stderr.isatty()

    def begin(self, number: int, name: str, done: int) -> None:
        """Say that a run begins, or goes on from round ``done``."""
        self._began = time.monotonic()
        self._say(f"{number}/{self._total} {name}{f' from round {done}' if done else ''}")

    def end(self, number: int, name: str) -> None:
        """Say how long a run took, and how long the rest will."""
        self._spent.append(time.monotonic() - self._began)
        left = sum(self._spent) / len(self._spent) * (self._total - number)
        rest = f", {seconds_text(left)} left" if number < self._total else ""
        self._say(f"{number}/{self._total} {name} took {seconds_text(self._spent[-1])}{rest}")

    def failed(self, number: int, name: str, why: str) -> None:
        """Say why a run failed."""
        self._say(f"{number}/{self._total} {name} failed: {why}")

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)


def _terminal_bar(total_rounds: int) -> Any:
    """Return a rich progress bar on stderr, or ``None`` where lines have to do."""
    if not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column
    except ImportError:
        return None
    console = Console(stderr=True)
    # On a narrow terminal the end of the note is cut, never the round.
    whole = Column(no_wrap=True, min_width=len(f"round {total_rounds}/{total_rounds}"))
    bar = [BarColumn(bar_width=min(30, console.width - 90))] if console.width >= 100 else []
    rounds = TextColumn("round {task.completed}/{task.total}", table_column=whole)
    return Progress(rounds, *bar, TextColumn("{task.fields[note]}", markup=False), console=console)


def _rounds(count: int | str) -> str:
    return f"{count} round{'s' * (count != 1)}"


def result_table(summary: Mapping[str, Any]) -> Table:
    """Return the final scores as a table: a row for each modality set, the bounds and the baseline.

    Args:
      summary: the contents of ``summary.json``, with ``evaluation`` and, where known, ``bounds`` and ``baseline``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    evaluation, baseline = summary.get("evaluation") or {}, summary.get("baseline") or {}
    metrics = shown_metrics(evaluation)
    table = Table(
        title=f"Test scores after {_rounds(summary.get('rounds', '?'))}",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("modalities", min_width=len("centralized"))
    for metric in metrics:
        table.add_column(METRICS[metric], justify="right")
    fused = fused_set(evaluation)
    for name in ordered_sets(evaluation):
        cells = [score_text(evaluation[name].get(metric)) for metric in metrics]
        table.add_row(Text(name), *cells, style="bold" if name == fused else None)
    notes = []
    if skipped := summary.get("skipped_clients"):
        notes.append(f"{skipped_text(skipped)} left out: not finite")
    if privacy := summary.get("privacy"):
        notes.append(f"client-level privacy: epsilon {privacy['epsilon']:.3g} at delta {privacy['delta']:.3g}")
    for name, held, scores in shown_bounds(summary):
        bound = Text(name if held == fused else f"{name}, {held}")
        table.add_row(bound, *(score_text(scores.get(metric)) for metric in metrics), style="dim")
    if summary.get("bounds"):
        notes.append("bounds: centralized is training on all samples pooled, local is each client alone")
    if baseline:
        table.add_row("baseline", *(score_text(baseline.get(metric)) for metric in metrics), style="dim")
        notes.append(f"baseline: {baseline.get('rule') or 'fixed prediction'}")
    table.caption = "\n".join(notes) or None
    return table
