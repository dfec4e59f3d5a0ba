"""Prompt learning on a frozen CLIP: the tokens before the class names are trained, and nothing else.

Reconstruction of Lin et al., "FedRSCLIP" (arXiv 2501.02461): a shared and a private prompt, each with text features of
its own. One prompt alone is PromptFL (Guo et al., IEEE Transactions on Mobile Computing, 2023, arXiv 2208.11625).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mmfl_jax.models.clip.ragged import Ragged
from mmfl_jax.models.clip.tokenizer import Tokens
from mmfl_jax.models.clip.towers import CLIP, TextTower
from mmfl_jax.models.multimodal import Output
from mmfl_jax.models.variables import Frozen, freeze

Array = jax.Array

SHARED, PRIVATE = "shared", "private"
MEAN = "mean"
# Standard deviation of a prompt's first tokens, that of CLIP's own token embeddings.
DEVIATION = 0.02


def unit(x: Array) -> Array:
    """Return ``x`` brought to length 1 along its last axis, float32."""
    x = x.astype(jnp.float32)
    # The floor keeps the gradient finite where a feature is exactly zero.
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-12))


class Prompt(nnx.Module):
    """Hold a prompt's tokens ``[tokens, width]``."""

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs):
        self.tokens = nnx.Param(DEVIATION * jax.random.normal(rngs.params(), (tokens, width)))


class PromptLearner(nnx.Module):
    """Classify image features by their cosines with the texts ``[prompt][class name]``.

    Everything of CLIP is frozen. A client's step encodes each class once for each prompt, whatever its batch.

    Args:
      model: gives text tower and logit scale; it stays as it is.
      names: tokens of the class names.
      prompts: names of the prompts, in order; for two, PACL compares the first with the second.
      tokens: of a prompt.
      branches: whose cosines make the logits: ``mean`` over all prompts, or one of them.
      rngs: for the prompts.
    """

    def __init__(self, model: CLIP, names: Tokens, prompts: Sequence[str], tokens: int, branches: str, rngs: nnx.Rngs):
        width = model.config.text.width
        self.prompts = nnx.Dict({prompt: Prompt(tokens, width, rngs) for prompt in prompts})
        self.order = tuple(prompts)
        self.branches = branches
        self.layout = Ragged.of(names.end_positions)  # what follows the start token, to the end token
        embedded = model.text.embed(jnp.asarray(names.ids))
        self.begin = Frozen(embedded[0, :1])
        self.names = Frozen(self.layout.pack(embedded[:, 1:]))
        self.text = _frozen_text(model.text)
        self.logit_scale = Frozen(model.logit_scale[...])

    def texts(self) -> Array:
        """Return the unit text features of the classes by each prompt, ``[prompts, classes, projection]``."""
        begin, names = self.begin[...], self.names[...]
        prompts = jnp.stack([self.prompts[name].tokens[...] for name in self.order]).astype(names.dtype)
        # No text sees what follows: start token and prompt are computed once for all classes.
        encode = lambda prompt: self.text.after(jnp.concatenate([begin, prompt]), names, self.layout)
        return unit(jax.vmap(encode)(prompts))

    def __call__(self, images: Mapping[str, Array], train: bool) -> Output:
        """Return the logits of image features ``[batch, projection]``, of the one modality there is."""
        (features,) = images.values()
        return self.classify(features, self.texts())

    def classify(self, features: Array, texts: Array) -> Output:
        """Return logits of features ``[batch, projection]`` by unit texts ``[prompts, classes, projection]``."""
        cosines = jnp.einsum("bd,pcd->pbc", unit(features), texts)
        chosen = cosines.mean(axis=0) if self.branches == MEAN else cosines[self.order.index(self.branches)]
        return Output(jnp.exp(self.logit_scale[...]) * chosen, {}, texts, cosines)


class ZeroShot(nnx.Module):
    """Classify image features by their cosines with written texts, such as "a satellite photo of a forest".

    Args:
      model: gives text tower and logit scale; it stays as it is.
      texts: tokens of a text for each class.
    """

    def __init__(self, model: CLIP, texts: Tokens):
        tower = model.text
        self.texts = Frozen(unit(tower(tower.embed(jnp.asarray(texts.ids)), jnp.asarray(texts.end_positions))))
        self.logit_scale = Frozen(model.logit_scale[...])

    def __call__(self, images: Mapping[str, Array], train: bool) -> Output:
        """Return the logits of image features ``[batch, projection]``, of the one modality there is."""
        (features,) = images.values()
        return Output(jnp.exp(self.logit_scale[...]) * unit(features) @ self.texts[...].T, {})


class LinearHead(nnx.Module):
    """Classify image features by one dense layer over the unit features."""

    def __init__(self, projection: int, classes: int, rngs: nnx.Rngs):
        self.head = nnx.Linear(projection, classes, rngs=rngs)

    def __call__(self, images: Mapping[str, Array], train: bool) -> Output:
        """Return the logits of image features ``[batch, projection]``, of the one modality there is."""
        (features,) = images.values()
        return Output(self.head(unit(features)), {})


def _frozen_text(tower: TextTower) -> TextTower:
    """Return a copy of a text tower with frozen weights, without the vocabulary: the names are embedded already."""
    text: TextTower = nnx.clone(tower)
    del text.token_embedding
    freeze(text)
    return text
