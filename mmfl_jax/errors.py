"""The one error that a user's mistake raises."""


class UserError(Exception):
    """Name in one line the file, field or option that is wrong, what was found and what would be right.

    The command line prints the line and leaves with exit code 2; ``--debug`` shows the traceback as well.
    """


class Diverged(UserError):
    """Say that a model's numbers are no numbers any more."""


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
