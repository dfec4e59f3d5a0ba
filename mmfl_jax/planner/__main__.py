"""A plan in a process of its own: ``python -m mmfl_jax.planner STUDY CONFIG TOPOLOGY`` writes its JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.study import Study, load_study


def main(reference: str, config: str, topology: str) -> None:
    """Print ``{"plan": ...}``, or ``{"error": line}``."""
    answer, sys.stdout = sys.stdout, sys.stderr
    load_study(reference)  # its file may register archives or methods of its own
    from mmfl_jax.planner.pod import plan

    found: dict[str, Any]
    try:
        found = {"plan": plan(Study.from_json(Path(config)), topology).json()}
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found), file=answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
