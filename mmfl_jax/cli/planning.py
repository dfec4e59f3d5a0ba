"""The command ``plan``: what a study needs, on this machine or on TPUs that are not here."""

from __future__ import annotations

import json
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from mmfl_jax.cli.arguments import parse
from mmfl_jax.cpu_devices import make_devices
from mmfl_jax.errors import UserError
from mmfl_jax.options import options
from mmfl_jax.study import Study, load_study


@options
class Plan:
    """Say what a round of a study needs of memory, network and time; no image is read.

    On this machine by timing short rounds; on TPUs that are not here by compiling for them.
    """

    study: OmitArgPrefixes[Study]
    topology: str = ""
    """TPUs to plan for, such as v5e:16x16, or v5e:16x16@4 for four slices; several with commas; empty: this machine."""
    json: bool = False
    """Write JSON instead of tables: an object, or a list for several topologies."""
    figure: Path | None = None
    """Draw seconds and memory over client counts into this picture."""
    check: bool = True
    """On this machine: run a whole round too, and say how far off the estimate was."""


def plan(reference: str, arguments: list[str]) -> None:
    """Plan the study ``reference`` with the options in ``arguments``."""
    chosen = parse(Plan, f"mmfl-jax plan {reference}", arguments, Plan(study=load_study(reference)))
    topologies = [name.strip() for name in chosen.topology.split(",") if name.strip()]
    if chosen.figure is not None and chosen.figure.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--figure {chosen.figure}: write it as .png, .pdf or .svg")
    if topologies:
        from mmfl_jax.planner.process import planned

        found = [planned(reference, chosen.study, name) for name in topologies]
    else:
        make_devices(chosen.study.execution.devices)
        from mmfl_jax.planner import here

        found = [here.plan(chosen.study, chosen.check).json()]
    if chosen.json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2))
    else:
        from rich.console import Console

        from mmfl_jax.planner.show import table

        for one in found:
            Console().print(table(one))
    if chosen.figure is not None:
        from mmfl_jax.files import writing
        from mmfl_jax.planner.show import write_figure

        with writing(chosen.figure):
            write_figure(found, chosen.figure)
