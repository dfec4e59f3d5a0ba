"""The contract of a federated algorithm: pure functions of client and server, in the way optax writes its own.

A client receives parameters (``send``) and what comes beside them (``broadcast``), starts (``start``), takes local
steps on its loss (``loss``, ``gradient``, ``step``), and sends a message (``message``, ``transform``); the server
reduces the messages (``reduce``) and updates (``update``). Each function has an identity default that compiles to
nothing, and each sees the parameters that are exchanged, never the client's private ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmfl_jax.algorithms.reduce import Reduce
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.algorithms.transforms import Message, Params, Transform

Array = jax.Array


class Local(NamedTuple):
    """Show one client in one round to an algorithm.

    Attributes:
      received: the parameters it got.
      broadcast: what came beside them.
      memory: what it kept from its last round.
      carry: what it carries from step to step beside its parameters.
      size: its samples.
      steps: its local steps in this round.
      step: the step that is done now, from 0.
      rate: learning rate of this round.
      delay: how many rounds ago it was sent ``received`` (asynchronous algorithms; else 0).
      server: the number of its server in a hierarchy, else 0.
      key: of its randomness in this round.
      loss: of parameters on this step's batch, task and objectives together.
      features: of parameters on this step's batch: the fused representation ``[batch, d]``.
      optimizer: of the clients, with learning rate 1.
      momentum: of that optimizer, 0 for plain SGD.
    """

    received: Params
    broadcast: Any
    memory: Any
    carry: Any
    size: Array
    steps: Array
    step: Array
    rate: Array
    delay: Array
    server: Array
    key: Array
    loss: Callable[[Params], Array]
    features: Callable[[Params], Array]
    optimizer: optax.GradientTransformation
    momentum: float


class Aggregate(NamedTuple):
    """Hold what the clients of a round sent, reduced. Every field but the last three goes by the parameter's name.

    Attributes:
      value: the message's fields, each reduced over the holders of the parameter that reported.
      share: the weight of the holders that reported, as a share of that of all holders.
      clients: how many holders reported.
      population: how many holders there are.
      sampling: the probability that a client takes part in a round; 1 where cohorts are of a fixed size.
      rate: of the server's step, 1 unless scheduled.
      key: of the server's randomness in this round.
    """

    value: Message
    share: dict[str, Array]
    clients: dict[str, Array]
    population: dict[str, int]
    sampling: float
    rate: Array
    key: Array


def change(params: Params, local: Local) -> tuple[Message, Any]:
    """Return the message of most algorithms, the change of the parameters, and the memory as it was."""
    return {"change": difference(params, local.received)}, local.memory


def difference(a: Params, b: Params) -> Params:
    """Return ``a - b``."""
    return {n: a[n] - b[n] for n in a}


def add_change(aggregate: Aggregate, state: Any, params: Params) -> tuple[Params, Any]:
    """Return the parameters with the clients' mean change added (FedAvg's server), and the state as it was."""
    return {n: p + aggregate.rate * aggregate.value["change"][n] for n, p in params.items()}, state


class Algorithm(NamedTuple):
    """Hold the pure functions of an algorithm.

    Attributes:
      init: ``params -> state`` of the server.
      update: ``(aggregate, state, params) -> (params, state)`` of the server.
      memory: ``params -> memory`` that a client keeps from round to round, before its first one.
      broadcast: ``state -> what goes down`` beside the parameters.
      send: ``(params, state, facts) -> params`` that go down; ``facts`` has the client's ``delay`` and ``server``.
      start: ``local -> params`` that a client begins with.
      carry: ``local -> carry`` before the first step.
      loss: ``(params, local) -> scalar`` that is minimised.
      gradient: ``(gradient, params, local) -> gradient`` that the client's optimizer is given.
      phase: ``local -> (exchanged, private)``: whether each is trained in this step; None for always both.
      step: ``(params, local) -> carry`` after a step; ``params`` are those before it.
      message: ``(params, local) -> (message, memory)``: fields that each hold a value by the parameter's name.
      personal: ``(params, memory, broadcast) -> params`` that a client uses itself.
      received: whether clients use the parameters that go down; where not, they do not travel.
      counts: fields of the message that are numbers about a client, and no part of a model: clipping leaves them.
      indivisible: why a message cannot be clipped, compressed or combined with others by itself; empty where it can.
      transform: of the message on its way up.
      reduce: of the cohort's messages.
      private: words whose variables stay with the client, beside the study's own.
      weighting: of clients, ``samples`` or ``uniform``; None for the study's.
      keeps_unseen: whether a parameter that nobody in the cohort holds stays as it is.
      pooled: whether there are no clients: everybody's samples are pooled.
      isolated: whether nothing travels at all.
      buffer: how many updates make a round of an asynchronous algorithm, 0 for synchronous rounds.
      most_delay: the oldest version that an update may have started from.
      servers: how many servers a hierarchy has under the global one, 0 for none.
      period: rounds between two averages of their models.
      privacy: ``(rounds, rate) -> {"epsilon", "delta"}``, for cohorts drawn with that probability; None without.
      check: raises UserError where the setting does not allow the algorithm.
    """

    init: Callable[[Params], Any] = lambda params: {}
    update: Callable[[Aggregate, Any, Params], tuple[Params, Any]] = add_change
    memory: Callable[[Params], Any] = lambda params: {}
    broadcast: Callable[[Any], Any] = lambda state: {}
    send: Callable[[Params, Any, Any], Params] = lambda params, state, facts: params
    start: Callable[[Local], Params] = lambda local: local.received
    carry: Callable[[Local], Any] = lambda local: {}
    loss: Callable[[Params, Local], Array] = lambda params, local: local.loss(params)
    gradient: Callable[[Params, Params, Local], Params] = lambda gradient, params, local: gradient
    phase: Callable[[Local], tuple[Array, Array]] | None = None
    step: Callable[[Params, Local], Any] = lambda params, local: local.carry
    message: Callable[[Params, Local], tuple[Message, Any]] = change
    personal: Callable[[Params, Any, Any], Params] = lambda params, memory, broadcast: params
    received: bool = True
    counts: tuple[str, ...] = ()
    indivisible: str = ""
    transform: Transform = Transform()
    reduce: Reduce = Reduce()
    private: tuple[str, ...] = ()
    weighting: str | None = None
    keeps_unseen: bool = True
    pooled: bool = False
    isolated: bool = False
    buffer: int = 0
    most_delay: int = 0
    servers: int = 0
    period: int = 0
    privacy: Callable[[int, float], dict[str, float]] | None = None
    check: Callable[[Setting], None] = lambda setting: None


def zeros(params: Params) -> Params:
    """Return zeros of the shapes of ``params``."""
    return jax.tree.map(jnp.zeros_like, params)


def square_norm(params: Params) -> Array:
    """Return the squared Euclidean norm of all of ``params`` together."""
    return sum((jnp.vdot(x, x) for x in jax.tree.leaves(params)), jnp.float32(0))
