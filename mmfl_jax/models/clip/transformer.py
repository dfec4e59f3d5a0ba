"""The pre-norm transformer of both towers, without dropout: its weights are frozen."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from mmfl_jax.models.clip.config import CLIPConfig, TowerConfig
from mmfl_jax.models.clip.ragged import Ragged
from mmfl_jax.ops.conv_spec import same_axes

Array = jax.Array
normal = nnx.initializers.normal


def quick_gelu(x: Array) -> Array:
    """Approximate the Gaussian error linear unit as x sigmoid(1.702 x), as OpenAI's weights were trained with."""
    return x * nnx.sigmoid(1.702 * x)


def gelu(x: Array) -> Array:
    """Return x times the normal distribution's cumulative function, without approximation."""
    return nnx.gelu(x, approximate=False)


def layer_norm(width: int, epsilon: float, dtype: jnp.dtype | None, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return a layer normalisation that keeps its accuracy when the mean is far from zero."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


class Block(nnx.Module):
    """Add to the tokens what attention, then a perceptron of two layers, make of them, each after normalisation."""

    def __init__(self, size: TowerConfig, config: CLIPConfig, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        width, depth = size.width, (2 * size.layers) ** -0.5
        linear: Callable[..., nnx.Linear] = lambda inputs, outputs, std: nnx.Linear(
            inputs, outputs, dtype=dtype, kernel_init=normal(std), rngs=rngs
        )
        self.heads = size.heads
        self.activation = quick_gelu if config.activation == "quick_gelu" else gelu
        self.attention_norm = layer_norm(width, config.epsilon, dtype, rngs)
        self.qkv = linear(width, 3 * width, width**-0.5)
        self.out = linear(width, width, width**-0.5 * depth)
        self.mlp_norm = layer_norm(width, config.epsilon, dtype, rngs)
        self.up = linear(width, size.mlp_width, (2 * width) ** -0.5)
        self.down = linear(size.mlp_width, width, width**-0.5 * depth)

    def __call__(self, x: Array, causal: bool) -> Array:
        """Return the tokens ``[n, t, width]`` after this block."""
        return self._rest(x, _attention(*self._project(x), causal))

    def after(self, prefix: Array, tokens: Array, texts: Ragged) -> tuple[Array, Array]:
        """Return a prefix ``[1, p, width]`` and texts' tokens ``[tokens, width]`` behind it, both after this block."""
        first, own = self._project(prefix), self._project(tokens)
        q, k, v = map(texts.unpack, own)
        follow = lambda before, after: jnp.concatenate(
            [jnp.broadcast_to(before, (len(after), *before.shape[1:])), after], axis=1
        )
        seen = texts.pack(_attention(q, follow(first[1], k), follow(first[2], v), causal=True))
        return self._rest(prefix, _attention(*first, causal=True)), self._rest(tokens, seen)

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        """Return queries, keys and values ``[n, t, heads, width / heads]`` of tokens ``[n, t, width]``."""
        q, k, v = jnp.split(self.qkv(self.attention_norm(x)), 3, axis=-1)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        return split(q), split(k), split(v)

    def _rest(self, x: Array, seen: Array) -> Array:
        """Return tokens ``x`` after this block, given what they have seen, ``[..., heads, width / heads]``."""
        x = x + self.out(seen.reshape(x.shape))
        return x + self.down(self.activation(self.up(self.mlp_norm(x))))


def _attention(q: Array, k: Array, v: Array, causal: bool) -> Array:
    """Return what queries see, ``[n, t, heads, width / heads]``; they are those of the last tokens among the keys."""
    mask = None
    if causal:
        length, keys = q.shape[1], k.shape[1]
        mask = jnp.tril(jnp.ones((length, keys), bool), keys - length)[None, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


class Transformer(nnx.Module):
    """Pass tokens ``[n, t, width]`` through the blocks.

    The blocks' parameters are stacked, the block first, and one compiled block runs over them: compiling takes the
    time of one block, not of twelve and their gradients.
    """

    def __init__(self, size: TowerConfig, config: CLIPConfig, causal: bool, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        self.causal = causal
        make = nnx.vmap(lambda rngs: Block(size, config, dtype, rngs), in_axes=0, out_axes=0)
        self.blocks: Block = nnx.split_rngs(splits=size.layers)(make)(rngs)

    def __call__(self, x: Array) -> Array:
        """Return the tokens ``[n, t, width]`` after all blocks."""
        graph, weights = nnx.split(self.blocks)
        return jax.lax.scan(lambda x, weights: (nnx.merge(graph, weights)(x, self.causal), None), x, weights)[0]

    def after(self, prefix: Array, tokens: Array, texts: Ragged) -> Array:
        """Return the tokens ``[tokens, width]`` of texts that all begin with a prefix, after all blocks.

        Args:
          prefix: ``[p, width]``. No token sees a later one, so it is computed once and not for each text.
          tokens: ``[tokens, width]``.
          texts: whose tokens they are.

        Raises:
          ValueError: where every token sees all others.
        """
        if not self.causal:
            raise ValueError("a prefix is computed once for all sequences only where attention is causal")
        graph, weights = nnx.split(self.blocks)

        def step(carry: tuple[Array, Array], weights: nnx.State) -> tuple[tuple[Array, Array], None]:
            return nnx.merge(graph, weights).after(*carry, texts), None

        first, tokens = same_axes(prefix[None], tokens)  # a scan's carry ends as it began: in shard_map, by client
        return jax.lax.scan(step, (first, tokens), weights)[0][1]
