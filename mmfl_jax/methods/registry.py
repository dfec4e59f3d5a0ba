"""Methods by name: a base, and modules joined to it by ``+`` in any order."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING

from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.methods.features import CLIP, FEDRSCLIP, LINEAR, LOCAL_PROMPTS, PROMPTFL
from mmfl_jax.methods.fw import FW
from mmfl_jax.methods.image import MF, SEPARATE, UNIFIED
from mmfl_jax.methods.method import Method, Recipe
from mmfl_jax.methods.mim import MIM

if TYPE_CHECKING:
    from mmfl_jax.study import Study

_METHODS = {
    method.name: method for method in (UNIFIED, SEPARATE, MF, FW, MIM, FEDRSCLIP, PROMPTFL, LOCAL_PROMPTS, CLIP, LINEAR)
}


def methods() -> dict[str, Method]:
    """Return every method and module by name."""
    return dict(_METHODS)


def register(method: Method, *, replace: bool = False) -> None:
    """Add a method or module, for studies and the command line.

    Raises:
      UserError: for a name that is taken, unless it is to be replaced, or that cannot be written in a reference; for
        neither or both of base and module.
    """
    name = method.name
    if (method.base is None) == (method.module is None):
        raise UserError(f"method {name!r} needs one of base (a method) and module (joined to one by +)")
    if not name or set(name) & set("+ ") or name != name.lower():
        raise UserError(f"method {name!r}: a name is in lower case, not empty and without + or a space")
    if name in _METHODS and not replace:
        raise UserError(f"method {name!r} is there already; choose another name, or say replace=True")
    _METHODS[name] = method


def find(reference: str) -> Method:
    """Return the method of a reference such as ``mf+fw+mim``; the order of its parts does not matter.

    Raises:
      UserError: for an unknown name, no base or several, a part twice, or a module that does not fit the base.
    """
    names = [name.strip() for name in reference.lower().split("+")]
    parts = [_named(name, names, reference) for name in names]
    bases = [part for part in parts if part.base is not None]
    modules = [part for part in parts if part.module is not None]
    if len(bases) != 1 or len(set(names)) < len(names):
        found = f"joins {' and '.join(part.name for part in bases)}" if len(bases) > 1 else "has no method to join"
        found = found if len(bases) != 1 else "names a part twice"
        raise UserError(
            f"--method {reference!r} {found}; one of {_listed(module=False)}, and any of {_listed(module=True)} once"
        )
    if not modules:
        return bases[0]
    # Refused here, before CLIP is loaded for nothing.
    for part in modules:
        if bases[0].on_features and not part.on_features:
            raise UserError(
                f"--method {reference!r}: {part.name} changes the encoders of images, but {bases[0].name} learns on "
                f"features of a frozen CLIP; take {bases[0].name} alone"
            )

    def base(study: Study, federation: Federation) -> Recipe:
        recipe = bases[0].recipe(study, federation)
        for part in modules:
            assert part.module is not None
            recipe = part.module(recipe, study, federation)
        return recipe

    return dataclasses.replace(bases[0], name=reference, base=base)


def _listed(module: bool) -> str:
    return ", ".join(name for name, method in _METHODS.items() if (method.module is not None) == module)


def _named(name: str, names: list[str], reference: str) -> Method:
    if name not in _METHODS:
        # A name that the reference has already is not what was meant.
        close = difflib.get_close_matches(name, [n for n in _METHODS if n not in names], n=1, cutoff=0.5)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(
            f"--method {reference!r}: {name!r} is unknown{meant}; one of {', '.join(_METHODS)}, joined by +"
        )
    return _METHODS[name]
