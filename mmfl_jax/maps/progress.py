"""Show how far maps are: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from mmfl_jax.report.presentation import seconds_text
from mmfl_jax.report.terminal import HEARTBEAT


class MapProgress:
    """Show scenes, and strips of the scene that is being mapped.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False):
        self._quiet, self._bar = quiet, _terminal_bar(quiet)
        self._task: Any = None
        self._heading, self._total, self._done = "", 0, 0
        self._began = self._said = 0.0

    def begin(self, heading: str, total: int) -> None:
        """Show that a scene of ``total`` strips begins."""
        self._heading, self._total, self._done = heading, total, 0
        self._began = self._said = time.monotonic()
        if self._bar is not None:
            if self._task is None:
                self._bar.start()
                self._task = self._bar.add_task(heading)
            self._bar.reset(self._task, total=total, description=heading)

    def step(self) -> None:
        """Show that a strip is done."""
        self._done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._task)
        elif now - self._said > HEARTBEAT:
            self._said = now
            left = (now - self._began) / self._done * (self._total - self._done)
            self._line(f"{self._heading} · {self._done / self._total:.0%} · {seconds_text(left)} left")

    def end(self) -> None:
        """Show that a scene is done."""
        if self._bar is None:
            self._line(f"{self._heading} · {seconds_text(time.monotonic() - self._began)}")

    def close(self) -> None:
        """Let go of the terminal."""
        if self._bar is not None:
            self._bar.stop()

    def _line(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)


def _terminal_bar(quiet: bool) -> Any:
    """Return a rich progress bar on stderr, or None where lines have to do."""
    if quiet or not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
