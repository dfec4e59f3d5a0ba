"""Signals: the first lets a round end and be saved, where one runs; before, after and the second time it ends all.

Exit codes are 128 + the signal's number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SHOW_CURSOR = b"\x1b[?25h\n"


class Stopped(Exception):
    """Say that a signal ended the run after its round, with everything saved.

    Attributes:
        signal: its number.
        where: what had been done, such as "after round 3 of 20".
    """

    def __init__(self, signal_number: int, where: str, advice: str = ""):
        self.signal, self.where = signal_number, where
        super().__init__(f"stopped by {signal.Signals(signal_number).name} {where}{advice and '; '}{advice}")


# What the watching thread adds the first signal to, while a round can end and be saved.
_waiting: list[list[int]] = []
_watching = False


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """End the process at a signal, with one line and at once, whatever it computes; a round may end first.

    For a command, not for a notebook. Python tells its main thread of a signal only between two of its own steps: not
    while XLA compiles; and what a handler raises in a callback is swallowed. A thread of its own hears of it at once.
    """
    global _watching
    # What nohup or a shell has set to be ignored stays so.
    numbers = [n for n in _NUMBERS if signal.getsignal(n) != signal.SIG_IGN]
    if _watching or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    before: dict[int, Any] = {n: signal.signal(n, lambda number, frame: None) for n in numbers}
    wakeup = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(heard,), daemon=True)
    thread.start()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)
        thread.join()
        os.close(heard)


def _watch(heard: int) -> None:
    while number := os.read(heard, 1):
        if _waiting and not _waiting[-1]:
            _waiting[-1].append(number[0])
        elif number[0] in _NUMBERS:
            _leave(number[0])


def _leave(number: int) -> None:
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)  # which a progress bar has hidden
        name = signal.Signals(number).name
        os.write(2, f"mmfl-jax: stopped by {name} at once; what was saved before is whole\n".encode())
    os._exit(128 + number)


@contextlib.contextmanager
def graceful() -> Iterator[list[int]]:
    """Collect the first signal meanwhile, so that a round ends and is saved; a second one ends the process at once."""
    caught: list[int] = []
    if _watching:
        _waiting.append(caught)
        try:
            yield caught
        finally:
            _waiting.pop()
        _again(caught)
        return

    def note(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        if caught:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)

    before: dict[int, Any] = {}
    # Not the main thread (a notebook's kernel may run cells so): no handler, nothing to collect.
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, note) for n in _NUMBERS if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _again(caught)


def _again(caught: list[int]) -> None:
    """Raise a signal again that came too late for a round to stop at it."""
    if caught:
        signal.raise_signal(caught[0])
