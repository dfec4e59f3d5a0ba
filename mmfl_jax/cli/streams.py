"""Standard output and error of a command: what cannot be written there is one line, or silence."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from mmfl_jax.errors import UserError


class _Stream:
    """Write to a stream that may be closed or full.

    Args:
        stream: None where it was closed before the process began.
        name: of the stream.
        must: raise where something is lost, instead of going on in silence.
    """

    def __init__(self, stream: TextIO | None, name: str, must: bool):
        self._stream, self._name, self._must = stream, name, must

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.__stdout__ if self._stream is None else self._stream, name)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        with self._losing():
            if self._stream is None and text:
                raise OSError(0, "it is closed")
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._losing():
            if self._stream is not None:
                self._stream.flush()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self._give_up()
            if isinstance(error, BrokenPipeError) and self._must:
                raise
            if self._must:
                reason = getattr(error, "strerror", None) or error
                raise UserError(
                    f"{self._name} cannot be written ({reason}); what it should have shown is lost"
                ) from None

    def _give_up(self) -> None:
        """Let Python's own last flush go nowhere."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # type: ignore[union-attr]
            os.close(nowhere)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Raise :class:`UserError` where standard output is lost; where standard error is, go on in silence."""
    for descriptor in (0, 1, 2):  # a file opened in place of a closed stream would get its output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    output: Any = _Stream(sys.stdout, "standard output", True)
    errors: Any = _Stream(sys.stderr, "standard error", False)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        yield
        output.flush()


def say(line: str) -> None:
    """Write a last line on standard error, if that is there."""
    stream = _Stream(sys.stderr, "standard error", False)
    stream.write(f"mmfl-jax: {' '.join(line.split())}\n")
    stream.flush()
