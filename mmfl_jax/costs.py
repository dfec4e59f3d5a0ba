"""What a round costs: bytes over the network, floating-point operations, memory."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from mmfl_jax.algorithms.transforms import FLOAT_BYTES as _FLOAT
from mmfl_jax.algorithms.transforms import float_bytes
from mmfl_jax.engine.batches import GroupData
from mmfl_jax.engine.client import Training, begin, end, first_client, local_step
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.server import message_shapes
from mmfl_jax.engine.state import ServerState
from mmfl_jax.ops import conv_form


def client_bytes(program: Program, state: ServerState, data: GroupData, group: int, places: int = 0) -> tuple[int, int]:
    """Return the bytes that one client of ``group`` sends up and receives down in a round.

    Up goes the message, as its transforms encode it, with moments as float32; down go the parameters, the moments, and
    what the algorithm broadcasts, as float32. Objectives say their own: with MIM by prototypes a client receives those
    of the other modalities and sends class sums and counts of its own; by places one projection a place.

    Args:
        program: of the federation.
        state: gives the shapes.
        data: of the client's group; gives the shapes.
        group: the client's group.
        places: of the client, for objectives by places.
    """
    message = dict(message_shapes(program, state, data, group))
    moments = float_bytes(message.pop("moments"))
    up = program.algorithm.transform.bytes_up(message) + moments
    names, broadcast = program.sent(group)[0], jax.eval_shape(program.algorithm.broadcast, state.algorithm)
    foreign = state.params.keys() - set(names)  # of what goes by a parameter's name, a client needs what it holds
    needed = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(broadcast)
        if not foreign.intersection(getattr(part, "key", None) for part in path)
    ]
    received = float_bytes({n: state.params[n] for n in names}) if program.algorithm.received else 0
    down = received + moments + float_bytes(needed)
    for objective in program.objectives:
        numbers = objective.numbers(state.objectives[objective.name], program.groups[group], places)
        up, down = up + _FLOAT * numbers[0], down + _FLOAT * numbers[1]
    return up, down


def server_bytes(program: Program, state: ServerState, round_number: int) -> int:
    """Return the bytes between a hierarchy's servers and the global one in a round, both ways, counted from 1.

    Moments and what objectives relay in every round, models where a period ends.

    Args:
        program: of the federation.
        state: gives the shapes.
        round_number: of the round.
    """
    algorithm = program.algorithm
    stats = {n: v for n, v in state.stats.items() if not program.is_private(n)}
    through = float_bytes((stats, state.objectives))
    due = round_number % algorithm.period == 0
    return 2 * algorithm.servers * (through + due * float_bytes(program.exchanged(state.params)))


def step_flops(program: Program, state: ServerState, data: GroupData, group: int) -> float:
    """Return the floating-point operations of one local step of one client (:func:`flops`).

    The step stands alone here: inside the round's loops XLA would count a body once, whatever its trips.

    Args:
        program: of the federation.
        state: gives the shapes.
        data: of the client's group; gives the shapes.
        group: the client's group.
    """
    program = dataclasses.replace(program, span=1)  # of all the devices that a client spans
    first = functools.partial(first_client, program, group)
    now = jax.eval_shape(lambda state, data: begin(*first(state, data)), state, data)

    def step(state: ServerState, data: GroupData, now: Training) -> Any:
        client, batch = first(state, data)
        return local_step(client, now, jnp.int32(0), batch)[0]

    return flops(step, state, data, now)


def round_flops(program: Program, state: ServerState, data: GroupData, group: int) -> float:
    """Return the operations of a client's round outside of its steps: its start, message and transforms."""
    program = dataclasses.replace(program, span=1)

    def around(state: ServerState, data: GroupData) -> Any:
        client, batch = first_client(program, group, state, data)
        return end(client, begin(client, batch))

    return flops(around, state, data)


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the floating-point operations of a function, as XLA counts them (nan if it does not).

    XLA counts the body of a loop once: one of known length (``lax.scan``) is counted again for its other trips, one of
    unknown length stays at one.

    XLA counts what is written, before it compiles: the number is the same on every platform. Convolutions are written
    in their plain form, whichever runs: each multiplication and each addition of the definition once, none with
    padding. A product over channels counts whole, also where whitening knows blocks of it to be zero.
    """
    with conv_form("plain"):
        return _count(jax.make_jaxpr(function)(*jax.tree.map(shape_of, arguments)))


def _count(closed: Any) -> float:
    total = _count_once(closed)
    for body, length in _scans(closed.jaxpr):
        total += length * _count(body) - _count_once(body)
    return total


def _count_once(closed: Any) -> float:
    function = jax.jit(jax.extend.core.jaxpr_as_fun(closed))
    analysis = function.lower(*map(shape_of, closed.in_avals)).cost_analysis()
    # XLA leaves the key out where there is nothing to count.
    return math.nan if analysis is None else float(analysis.get("flops", 0.0))


def _scans(jaxpr: Any) -> Iterator[tuple[Any, int]]:
    """Yield bodies and lengths of the scans of a program, but not those inside of them."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["jaxpr"], equation.params["length"]
        else:
            for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(part, "eqns"):
                    yield from _scans(part)


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and type of an array."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def peak_memory(compiled: Any) -> int | None:
    """Return the bytes that a compiled function needs at most on a device: arguments, results, temporaries."""
    parts = memory(compiled)
    return None if parts is None else parts["held"] + parts["temporaries"]


def memory(compiled: Any) -> dict[str, int] | None:
    """Return the bytes on a device of a compiled function's ``held`` arguments and results, and ``temporaries``."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return {"held": int(held), "temporaries": int(analysis.temp_size_in_bytes)}
