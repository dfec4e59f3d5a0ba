"""Transforms of a message on its way to the server, in a chain: clipping, quantisation, sparsification.

A transform tells what the server receives after decoding, what the client keeps for the next round (the residual of
error feedback), and how many bytes travel. All leave fields other than arrays of parameters as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = dict[str, Array]
Message = dict[str, Params]

FLOAT_BYTES = 4


def float_bytes(message: Any) -> int:
    """Return the bytes of arrays, or shapes of arrays, sent as float32."""
    return FLOAT_BYTES * sum(math.prod(x.shape) for x in jax.tree.leaves(message))


class Wire(NamedTuple):
    """Say what travels of an array of ``n`` numbers.

    Attributes:
      numbers: ``n -> how many`` of them.
      beside: ``n -> bytes`` beside them, such as places or a scale.
      bits: of each number.
      fields: of the message that it holds for; None for all.
    """

    numbers: Callable[[int], int] = lambda n: n
    beside: Callable[[int], int] = lambda n: 0
    bits: int = 8 * FLOAT_BYTES
    fields: tuple[str, ...] | None = None


class Transform(NamedTuple):
    """Hold the functions of a transform; the default is the identity.

    Attributes:
      memory: ``params -> memory`` that a client keeps for it, before its first round.
      encode: ``(message, memory, key) -> (message, memory)``, the message as the server decodes it.
      wires: what travels of an array, each on top of the one before.
      bytes: ``message -> int``, from shapes alone, for a message of which not all travels; None to go by ``wires``.
    """

    memory: Callable[[Params], Any] = lambda params: {}
    encode: Callable[[Message, Any, Array], tuple[Message, Any]] = lambda message, memory, key: (message, memory)
    wires: tuple[Wire, ...] = ()
    bytes: Callable[[Message], int] | None = None

    def bytes_up(self, message: Message) -> int:
        """Return the bytes that travel of a message, from shapes alone."""
        if self.bytes is not None:
            return self.bytes(message)
        return sum(self._array(field, x) for field, value in message.items() for x in jax.tree.leaves(value))

    def _array(self, field: str, x: Any) -> int:
        if not x.shape:
            return FLOAT_BYTES
        n = math.prod(x.shape)
        wires = [w for w in self.wires if w.fields is None or field in w.fields]
        sent = min((w.numbers(n) for w in wires), default=n)
        bits = min((w.bits for w in wires), default=8 * FLOAT_BYTES)
        return (sent * bits + 7) // 8 + sum(w.beside(n) for w in wires)


def chain(*transforms: Transform) -> Transform:
    """Return the transforms one after the other; where one says its own bytes, the last that does says them."""

    def memory(params: Params) -> Any:
        return tuple(t.memory(params) for t in transforms)

    def encode(message: Message, memories: Any, key: Array) -> tuple[Message, Any]:
        kept = []
        for i, (t, m) in enumerate(zip(transforms, memories)):
            message, m = t.encode(message, m, jax.random.fold_in(key, i))
            kept.append(m)
        return message, tuple(kept)

    own = next((t.bytes for t in reversed(transforms) if t.bytes is not None), None)
    return Transform(memory, encode, tuple(w for t in transforms for w in t.wires), own)


def clip(norm: float, counts: tuple[str, ...] = ()) -> Transform:
    """Scale the whole message down to at most ``norm`` (Euclidean, over its fields but ``counts``, and all names)."""

    def encode(whole: Message, memory: Any, key: Array) -> tuple[Message, Any]:
        message = {field: value for field, value in whole.items() if field not in counts}
        # By the largest value first: squares of a message of 1e30 would overflow.
        largest = [jnp.abs(x).max(initial=0.0) for x in jax.tree.leaves(message)]
        most = jnp.maximum(functools.reduce(jnp.maximum, largest, jnp.float32(0)), 1e-30)
        squares = sum((((x / most) ** 2).sum() for x in jax.tree.leaves(message)), jnp.float32(0))
        length = most * jnp.sqrt(squares)
        factor = jnp.minimum(1.0, norm / length)
        return {**whole, **jax.tree.map(lambda x: x * factor, message)}, memory

    return Transform(encode=encode)


def int8(bits: int = 8) -> Transform:
    """Round every array to ``bits`` bits a number, stochastically and so without bias (QSGD; Alistarh et al., 2017).

    Each array travels with one float32, the value of its largest level.
    """
    levels = 2 ** (bits - 1) - 1

    def encode(message: Message, memory: Any, key: Array) -> tuple[Message, Any]:
        def rounded(i: int, x: Array) -> Array:
            scale = jnp.abs(x).max(initial=0.0) / levels
            noise = jax.random.uniform(jax.random.fold_in(key, i), x.shape)
            return jnp.floor(x / jnp.where(scale > 0, scale, 1) + noise) * scale

        leaves, tree = jax.tree.flatten(message)
        sent = [rounded(i, x) if x.ndim else x for i, x in enumerate(leaves)]
        return jax.tree.unflatten(tree, sent), memory

    return Transform(encode=encode, wires=(Wire(beside=lambda n: FLOAT_BYTES, bits=bits),))


def _with_error_feedback(compress: Callable[[Array], Array], wire: Wire) -> Transform:
    """Return a biased compressor of ``change`` whose error is kept and added to the next change."""

    def encode(message: Message, memory: Params, key: Array) -> tuple[Message, Params]:
        wanted = {n: x + memory[n] for n, x in message["change"].items()}
        sent = {n: compress(x) for n, x in wanted.items()}
        return {**message, "change": sent}, {n: wanted[n] - sent[n] for n in sent}

    return Transform(lambda params: jax.tree.map(jnp.zeros_like, params), encode, (wire._replace(fields=("change",)),))


def top_k(fraction: float) -> Transform:
    """Send the ``fraction`` of each array with the largest magnitude, as values and int32 places.

    With error feedback (Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018).
    """

    def compress(x: Array) -> Array:
        count = max(1, math.ceil(fraction * x.size))
        if count >= x.size:
            return x
        _, places = jax.lax.top_k(jnp.abs(x).reshape(-1), count)
        flat = x.reshape(-1)
        return jnp.zeros_like(flat).at[places].set(flat[places]).reshape(x.shape)

    count = lambda n: max(1, math.ceil(fraction * n))
    # Where sending all of an array is shorter than values and places, all of it is sent.
    sparse = lambda n: 2 * count(n) < n
    wire = Wire(lambda n: count(n) if sparse(n) else n, lambda n: FLOAT_BYTES * count(n) if sparse(n) else 0)
    return _with_error_feedback(compress, wire)


def sign() -> Transform:
    """Send the signs of each array and one float32, the mean magnitude.

    With error feedback (EF-signSGD; Karimireddy et al., "Error Feedback Fixes SignSGD", ICML 2019).
    """
    compress = lambda x: jnp.abs(x).mean() * jnp.sign(x) if x.size else x
    return _with_error_feedback(compress, Wire(beside=lambda n: FLOAT_BYTES, bits=1))
