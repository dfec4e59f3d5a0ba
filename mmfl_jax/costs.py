"""What a round costs: bytes over the network, floating-point operations, memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from mmfl_jax.engine.local import GroupData, draw_batch, local_step
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.round import start
from mmfl_jax.engine.state import ServerState
from mmfl_jax.ops import conv_form

_FLOAT = 4


def client_bytes(program: Program, state: ServerState, group: int, places: int = 0) -> tuple[int, int]:
    """Return the bytes that one client of ``group`` sends up and receives down in a round.

    Everything averaged travels as float32 both ways. With MIM by prototypes a client receives those of the other
    modalities and sends class sums and counts of its own; by places it sends and receives one projection a place.

    Args:
        program: of the federation.
        state: gives the shapes.
        group: the client's group.
        places: of the client, for MIM by places.
    """
    sent_params, sent_stats = program.sent(group)
    model = sum(state.params[n].size for n in sent_params) + sum(state.stats[n].size for n in sent_stats)
    up = down = model * _FLOAT
    relay = program.relay
    if relay is not None and state.relay:
        own = [m for m in state.relay if m in program.groups[group]]
        others = [m for m in state.relay if len(own) > 1 or m not in own]
        slots = places if relay.source == "places" else len(state.relay[relay.modalities[0]]["known"])
        up += len(own) * slots * (relay.size + 1) * _FLOAT
        down += len(others) * slots * relay.size * _FLOAT
    return up, down


def step_flops(program: Program, state: ServerState, data: GroupData, group: int) -> float:
    """Return the floating-point operations of one local step of one client (:func:`flops`).

    The step stands alone here: inside the round's loops XLA would count a body once, whatever its trips.

    Args:
        program: of the federation.
        state: gives the shapes.
        data: of the client's group; gives the shapes.
        group: the client's group.
    """

    def step(state: ServerState, data: GroupData) -> Any:
        private = {n: v[0] for n, v in state.clients[group].items()}
        local = start(program, state, group, private)
        batch = draw_batch(program, data, jnp.int32(0), jnp.uint32(0), jnp.int32(0))
        rate = program.learning_rate(state.round)
        return local_step(program, group, local.params, local, batch, state.relay, rate, state.frozen)

    return flops(step, state, data)


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
