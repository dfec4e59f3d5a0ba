"""What several algorithms ask of the setting they are run in."""

from __future__ import annotations

from collections.abc import Callable

from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.errors import UserError


def plain_sgd(name: str, *also: str) -> Callable[[Setting], None]:
    """Return a check that clients take steps of SGD: the algorithm reads a gradient off the change, or adds one."""
    known = ("sgd", *also)

    def check(setting: Setting) -> None:
        if setting.client_optimizer not in known:
            raise UserError(
                f"--client-optimizer {setting.client_optimizer}: {name} reads gradients off a client's change, which "
                f"is only right for {' or '.join(known)}"
            )

    return check


def all_of(*checks: Callable[[Setting], None]) -> Callable[[Setting], None]:
    """Return the checks one after the other."""

    def check(setting: Setting) -> None:
        for each in checks:
            each(setting)

    return check
