"""How many clients a device trains side by side, where nobody has said it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmfl_jax.engine.plan import Planner
from mmfl_jax.engine.program import Program
from mmfl_jax.federation.placement import Placement
from mmfl_jax.memory import tree_bytes
from mmfl_jax.models import variable_shapes

#: The most clients at once on an accelerator: with images, and with others.
IMAGES, SERIES = 16, 64
# On a CPU, of clients with series: their products are too small for a core (benchmarks/scaling.py). Of all else one
# client fills it.
_SERIES_CPU = 4
# The most of a chunk's steps that may be nobody's.
_PADDING = 0.1
# A client's parameters, their gradient, its optimizer's state and its message.
_COPIES = 4
# Of the memory that is free; XLA pads and keeps copies.
_USED = 0.8


def chunk_sizes(
    program: Program,
    shapes: Mapping[str, Any],
    steps: Sequence[np.ndarray],
    placement: Placement,
    expected: Sequence[int],
    platform: str,
    free: int,
) -> list[int]:
    """Return how many clients of each group a device trains at once.

    Not more than fit into memory, and so few that the seats of those that have ended early stand empty for a tenth of
    the time at most.

    Args:
      program: what is computed.
      shapes: of one image as a model receives it, by modality.
      steps: ``[clients]`` local steps of every client, a group an entry.
      placement: the home device of every client.
      expected: clients of a round, a group an entry.
      platform: of the devices.
      free: bytes of a device that are left for training.
    """
    found = []
    for group, count in enumerate(expected):
        most = _most({len(shapes[m].shape) for m in program.groups[group]}, platform)
        if most > 1:
            room = int(_USED * free) // client_bytes(program, group, shapes)
            most = min(most, room, -(-count // placement.devices))
        found.append(widest(max(1, most), group, count, steps, placement))
    return found


def _most(axes: set[int], platform: str) -> int:
    """Return the most clients at once, of which images, series or features have so many axes."""
    if platform == "cpu":
        return _SERIES_CPU if axes == {2} else 1
    return IMAGES if 3 in axes else SERIES


def widest(most: int, group: int, count: int, steps: Sequence[np.ndarray], placement: Placement) -> int:
    """Return the largest chunk, of ``most`` clients or a smaller power of two, that is nearly always full.

    Args:
      most: the largest that may be.
      group: of the clients.
      count: clients of a round in this group.
      steps: ``[clients]`` local steps of every client, a group an entry.
      placement: the home device of every client.
    """
    # Clients as they are: of every length as many as there are in all.
    some = np.linspace(0, len(steps[group]) - 1, count).round().astype(int)
    members = [np.zeros(0, int) for _ in steps]
    members[group] = np.sort(np.argsort(steps[group], kind="stable")[some])

    def padding(chunk: int) -> float:
        planner = Planner(list(steps), [chunk] * len(steps), placement, [len(s) for s in steps])
        return planner.lay(members)[1].metrics()["padding_waste"]

    smaller = [2**n for n in reversed(range(most.bit_length())) if 2**n < most]
    # Of one seat nothing stands empty, and nobody need lay out a round to know it.
    return next(chunk for chunk in (most, *smaller) if chunk == 1 or padding(chunk) <= _PADDING)


def client_bytes(program: Program, group: int, shapes: Mapping[str, Any]) -> int:
    """Return about what a client in training takes on a device: what its gradient keeps of a step, and its parameters.

    Args:
      program: what is computed.
      group: of the client.
      shapes: of one image as a model receives it, by modality.
    """
    template, batch = program.templates[group], program.batch_size // program.span
    params, stats, frozen = map(variable_shapes, (template.params, template.stats, template.frozen))
    images = {m: jax.ShapeDtypeStruct((batch, *shapes[m].shape), shapes[m].dtype) for m in program.groups[group]}

    def kept(params: Any, stats: Any, frozen: Any, images: Any) -> Any:
        logits = lambda params: template.module(params, stats, frozen)(images, train=True).logits
        return jax.vjp(logits, params)[1]

    # The frozen values are there once for all clients.
    whole = tree_bytes(jax.eval_shape(kept, params, stats, frozen, images)) + _COPIES * tree_bytes(params)
    return max(1, whole - tree_bytes(frozen))
