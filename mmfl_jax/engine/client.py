"""One client in one round: what it begins with, one local step, and what it sends and keeps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmfl_jax.algorithms import Local
from mmfl_jax.engine import moments, spread
from mmfl_jax.engine.batches import Batch, GroupData, draw_batch
from mmfl_jax.engine.mesh import SPAN
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.state import Kept, ServerState
from mmfl_jax.models import Output, Variables, values
from mmfl_jax.ops.axes import batch_axis

Array = jax.Array
# Folded into a client's key for the randomness of its message; those of its steps are 0, 1, 2, ...
_MESSAGE = 2**31 - 1


class Facts(NamedTuple):
    """Hold what is known of a client in this round: scalars.

    Attributes:
      size: its samples.
      steps: its local steps.
      seed: uint32.
      delay: how many rounds ago it was sent its parameters.
      server: the number of its server in a hierarchy.
      attack: what its change is multiplied with by a hostile client; None where there is none.
    """

    size: Array
    steps: Array
    seed: Array
    delay: Array
    server: Array
    attack: Array | None = None


class Training(NamedTuple):
    """Hold what changes while a client trains.

    Attributes:
      params: exchanged parameters.
      private: its own parameters.
      stats: statistics, exchanged and its own.
      optimizer: state of its optimizer.
      carry: of the algorithm.
    """

    params: Variables
    private: Variables
    stats: Variables
    optimizer: Any
    carry: Any


class Client(NamedTuple):
    """Hold one client's round: the program, its group, the server's state, what it kept, and facts."""

    program: Program
    group: int
    state: ServerState
    kept: Kept
    facts: Facts

    def received(self) -> Variables:
        """Return the exchanged parameters that the server sent."""
        program, state = self.program, self.state
        sent = program.algorithm.send(program.exchanged(state.params), state.algorithm, self.facts)
        return {n: sent[n] for n in program.sent(self.group)[0]}

    def view(self, step: Array, now: Training, forward: _Forward) -> Local:
        """Return the client as an algorithm sees it."""
        facts, program = self.facts, self.program
        return Local(
            received=self.received(),
            broadcast=program.algorithm.broadcast(self.state.algorithm),
            memory=self.kept["memory"],
            carry=now.carry,
            size=facts.size,
            steps=facts.steps,
            step=step,
            rate=program.learning_rate(self.state.round),
            delay=facts.delay,
            server=facts.server,
            key=jax.random.fold_in(jax.random.key(facts.seed), _MESSAGE),
            loss=lambda params: forward(params).total,
            features=forward.features,
            optimizer=program.client_optimizer,
            momentum=program.momentum,
        )


class Result(NamedTuple):
    """Hold what a forward pass gives: the losses by name, the new statistics, the model's output."""

    total: Array
    losses: dict[str, Array]
    stats: Variables
    output: Output


class _Forward:
    """Run the model on a batch, once for each parameters it is asked for while it is traced."""

    def __init__(self, client: Client, private: Variables, stats: Variables, batch: Batch | None):
        self.client, self.private, self.stats, self.batch = client, private, stats, batch
        self._known: list[tuple[Variables, Result]] = []

    def __call__(self, params: Variables) -> Result:
        for known, result in self._known:
            if known is params:
                return result
        assert self.batch is not None, "there is no batch after the last step"
        result = self._run(params, self.batch)
        self._known.append((params, result))
        return result

    def features(self, params: Variables) -> Array:
        """Return the fused representation; an algorithm that asks for it has checked that there is one."""
        found = self(params).output.features
        assert found is not None
        return found

    def _run(self, params: Variables, batch: Batch) -> Result:
        program, state = self.client.program, self.client.state
        template, trained = program.templates[self.client.group], {**params, **self.private}
        if program.span > 1:
            trained = spread.shared(trained)
        model = template.module(trained, self.stats, state.frozen)
        if program.span > 1:
            spread.normalise_over_devices(model)
        with batch_axis(SPAN if program.span > 1 else None):
            output = model(batch.images, train=True)
        if program.span > 1:
            stacked = output.logits.ndim - batch.labels.ndim - program.task.spatial
            output = spread.whole_output(output, stacked, program.span)
        logits = output.logits if batch.offset is None else output.logits + batch.offset
        losses = {"task": program.task.loss(logits, batch.labels)}
        total = losses["task"]
        for objective in program.objectives:
            losses[objective.name] = objective.loss(output, batch, state.objectives[objective.name])
            total = total + objective.weight_at(state.round // program.repeats) * losses[objective.name]
        return Result(total, losses, values(model)[1], output)


def first_client(program: Program, group: int, state: ServerState, data: GroupData) -> tuple[Client, Batch]:
    """Return a group's first client and the batch of its first step: its shapes and costs are those of all others."""
    kept = jax.tree.map(lambda v: v[0], state.clients[group])
    attack = None if data.attack is None else data.attack[0]
    facts = Facts(jnp.float32(1), jnp.int32(1), jnp.uint32(0), jnp.int32(0), jnp.int32(0), attack)
    batch = draw_batch(program, data, jnp.int32(0), facts.seed, jnp.int32(0))
    return Client(program, group, state, kept, facts), batch


def begin(client: Client, batch: Batch) -> Training:
    """Return what a client begins a round with; ``batch`` is that of its first step, for algorithms that look at it."""
    program, own = client.program, client.kept["variables"]
    template = program.templates[client.group]
    private = {n: own[n] for n in template.params if n in own}
    stats = {n: own[n] if n in own else client.state.stats[n] for n in template.stats}
    now = Training(client.received(), private, stats, (), {})
    forward = _Forward(client, private, stats, batch)
    local = client.view(jnp.int32(0), now, forward)
    now = now._replace(carry=program.algorithm.carry(local))
    params = program.algorithm.start(client.view(jnp.int32(0), now, forward))
    optimizer = program.client_optimizer.init({**params, **private})
    return now._replace(params=params, optimizer=optimizer)


def local_step(client: Client, now: Training, step: Array, batch: Batch) -> tuple[Training, dict[str, Array], Output]:
    """Return the client after one optimizer step on ``batch``, the losses before it by name, and the model's output."""
    program, algorithm = client.program, client.program.algorithm

    def objective(params: Variables, private: Variables) -> tuple[Array, Result]:
        forward = _Forward(client, private, now.stats, batch)
        total = algorithm.loss(params, client.view(step, now, forward))
        result = forward(params)
        return total, result._replace(total=total)

    (g, own), result = jax.grad(objective, argnums=(0, 1), has_aux=True)(now.params, now.private)
    local = client.view(step, now, _Forward(client, now.private, now.stats, batch))
    gradients = {**algorithm.gradient(g, now.params, local), **own}
    before = {**now.params, **now.private}
    if algorithm.phase is not None:
        both = algorithm.phase(local)
        trained = {n: both[0] if n in now.params else both[1] for n in before}
        gradients = {n: x * trained[n] for n, x in gradients.items()}
    updates, optimizer = program.client_optimizer.update(gradients, now.optimizer, before)
    if algorithm.phase is not None:  # momentum would move what is not trained now
        updates = {n: x * trained[n] for n, x in updates.items()}
    after = optax.apply_updates(before, {n: local.rate * u for n, u in updates.items()})
    carry = algorithm.step(now.params, local)
    moved = Training(
        {n: after[n] for n in now.params}, {n: after[n] for n in now.private}, result.stats, optimizer, carry
    )
    return moved, {"loss": result.total, **result.losses}, jax.lax.stop_gradient(result.output)


def end(client: Client, now: Training) -> tuple[dict[str, Variables], Kept]:
    """Return what the server decodes of the client's message, with its moments, and what the client keeps."""
    program, algorithm = client.program, client.program.algorithm
    local = client.view(client.facts.steps, now, _Forward(client, now.private, now.stats, None))
    message, memory = algorithm.message(now.params, local)
    attack = client.facts.attack
    if attack is not None:
        message = {**message, "change": {n: x * attack for n, x in message["change"].items()}}
    # Hostile or not: the server clips what it receives, and reads no message of another form.
    message, transform = algorithm.transform.encode(message, client.kept["transform"], local.key)
    sent_stats = program.sent(client.group)[1]
    about = moments.about(client.state.stats, {n: now.stats[n] for n in sent_stats})
    trained = {**now.params, **now.private, **now.stats}
    variables = {n: trained[n] for n in client.kept["variables"]}
    return {**message, "moments": about}, {"variables": variables, "memory": memory, "transform": transform}
