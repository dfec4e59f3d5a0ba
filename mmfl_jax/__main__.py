"""Where the command line starts: a stop while it is still being imported is no traceback either."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line (:func:`mmfl_jax.cli.main`)."""
    # The process ends at once, as others do: nothing has begun yet. The command line sets its own handlers.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from mmfl_jax.cli import main

    signal.signal(signal.SIGINT, before)
    main()


if __name__ == "__main__":
    main()
