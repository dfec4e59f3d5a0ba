"""The vision and the text tower of CLIP (Radford et al., 2021, arXiv 2103.00020) and the model of both."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmfl_jax.models.clip.config import CLIPConfig
from mmfl_jax.models.clip.ragged import Ragged
from mmfl_jax.models.clip.transformer import Transformer, layer_norm, normal

Array = jax.Array


def _projection(inputs: int, outputs: int, dtype: jnp.dtype | None, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, dtype=dtype, kernel_init=normal(inputs**-0.5), rngs=rngs)


class VisionTower(nnx.Module):
    """Encode images: patches and a class token through a transformer, then the class token projected."""

    def __init__(self, config: CLIPConfig, dtype: jnp.dtype | None = None, *, rngs: nnx.Rngs):
        size, patch = config.vision, config.patch_size
        self.image_size, self.patch_size = config.image_size, patch
        tokens = (config.image_size // patch) ** 2 + 1
        self.patch_embedding = nnx.Linear(
            3 * patch**2, size.width, use_bias=False, dtype=dtype, kernel_init=normal(0.02), rngs=rngs
        )
        self.class_embedding = nnx.Param(normal(size.width**-0.5)(rngs.params(), (size.width,)))
        self.position_embedding = nnx.Param(normal(size.width**-0.5)(rngs.params(), (tokens, size.width)))
        self.pre_norm = layer_norm(size.width, config.epsilon, dtype, rngs)
        self.transformer = Transformer(size, config, causal=False, dtype=dtype, rngs=rngs)
        self.post_norm = layer_norm(size.width, config.epsilon, dtype, rngs)
        self.projection = _projection(size.width, config.projection, dtype, rngs)

    def __call__(self, images: Array) -> Array:
        """Return the features of images.

        Args:
          images: float ``[n, image_size, image_size, 3]``, normalised (``images.normalize``).

        Returns:
          float32 ``[n, projection]``, not of unit length.

        Raises:
          ValueError: images of another shape.
        """
        side, patch = self.image_size, self.patch_size
        if images.ndim != 4 or images.shape[1:] != (side, side, 3):
            raise ValueError(f"images have shape {images.shape}; [n, {side}, {side}, 3] is needed")
        grid = side // patch
        patches = images.reshape(-1, grid, patch, grid, patch, 3).swapaxes(2, 3).reshape(-1, grid**2, 3 * patch**2)
        x = self.patch_embedding(patches)
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.position_embedding[...].astype(x.dtype)
        x = self.transformer(self.pre_norm(x))
        return self.projection(self.post_norm(x[:, 0])).astype(jnp.float32)


class TextTower(nnx.Module):
    """Encode texts from the embeddings of their tokens, so that learned prompts can stand among them."""

    def __init__(self, config: CLIPConfig, dtype: jnp.dtype | None = None, *, rngs: nnx.Rngs):
        size = config.text
        self.dtype = dtype
        self.token_embedding = nnx.Embed(
            config.vocabulary, size.width, dtype=dtype, embedding_init=normal(0.02), rngs=rngs
        )
        self.position_embedding = nnx.Param(normal(0.01)(rngs.params(), (config.context_length, size.width)))
        self.transformer = Transformer(size, config, causal=True, dtype=dtype, rngs=rngs)
        self.final_norm = layer_norm(size.width, config.epsilon, dtype, rngs)
        self.projection = _projection(size.width, config.projection, dtype, rngs)

    def embed(self, tokens: Array) -> Array:
        """Return the embeddings ``[n, t, width]`` of token ids ``[n, t]``, without positions."""
        return self.token_embedding(tokens)

    def __call__(self, embeddings: Array, end_positions: Array) -> Array:
        """Return the features of texts.

        Args:
          embeddings: ``[n, t, width]`` without positions. Tokens after the end change nothing, so ``t`` need only
            reach the end of the longest text.
          end_positions: int ``[n]``, where along ``t`` each text has its end token.

        Returns:
          float32 ``[n, projection]``, not of unit length.

        Raises:
          ValueError: more tokens than the context.
        """
        x = self.transformer(self._placed(embeddings, np.arange(embeddings.shape[1])))
        return self._features(jnp.take_along_axis(x, end_positions[:, None, None], axis=1)[:, 0])

    def after(self, prefix: Array, tokens: Array, texts: Ragged) -> Array:
        """Return the features of texts that all begin with the same tokens.

        Args:
          prefix: ``[p, width]``, embeddings of what all begin with (start token, prompt), computed once for all.
          tokens: ``[tokens, width]``, embeddings of what follows, to the end tokens.
          texts: whose tokens they are.

        Returns:
          float32 ``[n, projection]``, not of unit length.

        Raises:
          ValueError: more tokens than the context.
        """
        prefix = self._placed(prefix, np.arange(len(prefix)))
        x = self.transformer.after(prefix, self._placed(tokens, len(prefix) + texts.positions), texts)
        return self._features(x[texts.ends])

    def _placed(self, embeddings: Array, positions: np.ndarray) -> Array:
        """Return embeddings ``[..., t, width]`` with what stands for these positions ``[t]``."""
        length, context = int(positions.max()) + 1, self.position_embedding.shape[0]
        if length > context:
            raise ValueError(f"texts have {length} tokens; {context} at most")
        dtype = self.dtype or embeddings.dtype
        return embeddings.astype(dtype) + self.position_embedding[...].astype(dtype)[positions]

    def _features(self, ends: Array) -> Array:
        return self.projection(self.final_norm(ends)).astype(jnp.float32)


class CLIP(nnx.Module):
    """Compare images with texts.

    Args:
      config: the sizes.
      dtype: computes in it (float32 or bfloat16); parameters stay float32, and so do the features.
      rngs: for random weights (``load`` takes a file's).
    """

    def __init__(self, config: CLIPConfig, dtype: jnp.dtype | None = None, *, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTower(config, dtype, rngs=rngs)
        self.text = TextTower(config, dtype, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))

    def __call__(self, images: Array, tokens: Array, end_positions: Array) -> Array:
        """Return the logits ``[images, texts]``: exp(logit_scale) times the cosines of their features."""
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        text = unit(self.text(self.text.embed(tokens), end_positions))
        return jnp.exp(self.logit_scale[...]) * unit(self.vision(images)) @ text.T
