"""FedBuff: asynchronous averaging of buffered updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, difference
from mmfl_jax.errors import UserError


def fedbuff(buffer: int = 10, most_delay: int = 20, rate: float = 1.0) -> Algorithm:
    """FedBuff: the server steps whenever ``buffer`` updates have come in, whichever version they started from.

    ``x <- x + rate / K sum_i (w_i - x_{t - d_i}) / sqrt(1 + d_i)`` with the delays ``d_i``. Who starts and reports when
    follows from the clients' speeds (the virtual clock); a round is one step of the server.

    Travels: as FedAvg. The server's last ``most_delay + 1`` models lie on the device. Use it when clients differ much
    in speed, and waiting for the slowest costs most of the time.

    Args:
      buffer: K, updates a step.
      most_delay: the oldest version that an update may have started from.
      rate: of the server's step.

    References:
      Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022.
    """
    if buffer < 1 or most_delay < 0:
        raise UserError(
            f"--algorithm fedbuff: buffer must be 1 or more and most_delay 0 or more, not {buffer}, {most_delay}"
        )
    versions = most_delay + 1

    def init(params: Params) -> dict[str, Any]:
        return {"past": {n: jnp.broadcast_to(p, (versions, *p.shape)) for n, p in params.items()}, "now": jnp.int32(0)}

    def send(params: Params, state: dict[str, Any], facts: Any) -> Params:
        return {n: state["past"][n][(state["now"] - facts.delay) % versions] for n in params}

    def message(params: Params, local: Local) -> tuple[dict, dict]:
        scale = jax.lax.rsqrt(1.0 + local.delay)
        return {"change": {n: scale * d for n, d in difference(params, local.received).items()}}, local.memory

    def update(aggregate: Aggregate, state: dict[str, Any], params: Params) -> tuple[Params, dict[str, Any]]:
        new = {n: p + aggregate.rate * rate * aggregate.value["change"][n] for n, p in params.items()}
        now = (state["now"] + 1) % versions
        return new, {"past": {n: state["past"][n].at[now].set(p) for n, p in new.items()}, "now": now}

    return Algorithm(
        init=init, send=send, message=message, update=update, weighting="uniform", buffer=buffer, most_delay=most_delay
    )
