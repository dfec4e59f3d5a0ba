"""Docstrings name things by Sphinx's roles, :func:`name`; in Markdown they are code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`~?([^`]*)`")


def plain(text: str) -> str:
    """Return a docstring whose roles are code."""
    return _ROLE.sub(r"`\1`", text)


class Roles(griffe.Extension):
    """Take the roles out of every docstring."""

    def on_object(self, *, obj: griffe.Object, **more: Any) -> None:
        """Change the docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)
