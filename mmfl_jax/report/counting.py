"""Show how far something has come that is counted: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import time
from typing import Any

from mmfl_jax.report.presentation import seconds_text
from mmfl_jax.report.terminal import HEARTBEAT


class Counting:
    """Show on standard error how many are done, how many a second, and the time left.

    Args:
        what: is counted, such as ``samples``.
        quiet: show nothing.
        ends: whether a last line stays where there is no terminal.
    """

    def __init__(self, what: str, quiet: bool = False, ends: bool = False):
        self._what, self._quiet, self._ends = what, quiet, ends
        self._bar: Any = None
        self._note = ""
        self._first: tuple[float, int] | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Counting:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._what, total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._ends and self._note and not self._quiet:
            print(self._note, file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done."""
        now = time.monotonic()
        self._first = self._first or (now, done)  # what was done before this call took none of its time
        note = f"{done}/{total} {self._what}"
        began, before = self._first
        if now > began and done > before:
            rate = (done - before) / (now - began)
            note += f" · {rate:.1f}/s"
            if done < total:
                note += f" · {seconds_text((total - done) / rate)} left"
        self._note = note
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=note)
        elif not self._quiet and now - self._said > HEARTBEAT:
            self._said = now
            print(note, file=sys.stderr, flush=True)
