"""The one error that a user's mistake raises."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Name in one line the file, field or option that is wrong, what was found and what would be right.

    The command line prints the line and leaves with exit code 2; ``--debug`` shows the traceback as well.
    """


class Diverged(UserError):
    """Say that a model's numbers are no numbers any more."""


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def told_in_one_line() -> Iterator[None]:
    """Print a mistake of the user on one line and leave with exit code 2, in scripts as on the command line."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
