"""Train a small CLIP from nothing, for demos: contrastively, on images of some classes and captions of their names.

The loss is CLIP's (Radford et al., 2021, arXiv 2103.00020, figure 3), with all images of one caption in a batch as its
positives, as in UniCL (Yang et al., CVPR 2022, arXiv 2204.03610): with a dozen classes, every batch would else hold the
same caption as positive and as negative. The captions of a batch are of one template, so that two of them differ only
where the images do: in class, season or country.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mmfl_jax.archives.base import Archive
from mmfl_jax.archives.images import normalize
from mmfl_jax.errors import UserError
from mmfl_jax.models.clip.config import CLIPConfig, TowerConfig
from mmfl_jax.models.clip.save import save
from mmfl_jax.models.clip.tokenizer import ByteTokenizer, silent_bytes, tokenize
from mmfl_jax.models.clip.towers import CLIP

Array = jax.Array

SMALL = CLIPConfig(
    TowerConfig(96, 3, 4, 384),
    TowerConfig(64, 2, 4, 256),
    image_size=32,
    patch_size=8,
    context_length=96,
    vocabulary=ByteTokenizer.vocabulary,
    projection=64,
)
CACHE = Path("~/.cache/mmfl_jax/clip")
# Changes with anything that changes the demo's CLIP, so that an old one is left alone.
VERSION = 2
# Seed of the demo CLIP's images: no study begins with it, so that none sees images that CLIP was trained on.
IMAGE_SEED = 7_001
SMALL_SAMPLES = 6000
TEMPLATES = (
    "a satellite image of {name}",
    "a satellite photo of {name}",
    "an aerial view of {name}",
    "{name}",
    "{season} image of {name}",
    "{country}, {name}",
    "{season} in {country}, {name}",
)
MAX_LOGIT_SCALE = float(np.log(100))  # as in CLIP's training


@dataclasses.dataclass(frozen=True)
class Training:
    """Say how a small CLIP is trained.

    Attributes:
      steps: of the optimizer.
      batch_size: pairs of image and caption.
      learning_rate: of AdamW at its highest, after a tenth of the steps; then a cosine towards 0.
      weight_decay: of AdamW.
      seed: of weights, batches and captions.
    """

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


def half(classes: Sequence[str]) -> tuple[str, ...]:
    """Return every second class: those that a small CLIP is trained on, the others stay new to it."""
    return tuple(classes[::2])


def contrastive_loss(image: Array, text: Array, captions: Array, logit_scale: Array) -> Array:
    """Return the mean of the cross-entropies from images to captions and from captions to images.

    Args:
      image: features ``[batch, d]``, not of unit length.
      text: features ``[batch, d]`` of their captions.
      captions: int ``[batch]``; pairs of one caption are positives of each other. All different: CLIP's own loss.
      logit_scale: logarithm of the factor of the cosines.
    """
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    logits = jnp.exp(logit_scale) * unit(image) @ unit(text).T
    positive = (captions[:, None] == captions[None]).astype(jnp.float32)
    positive /= positive.sum(axis=1, keepdims=True)
    cross_entropy = lambda logits: -(positive * jax.nn.log_softmax(logits)).sum(axis=1).mean()
    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def train(
    archive: Archive,
    classes: Sequence[str],
    config: CLIPConfig = SMALL,
    training: Training = Training(),
    quiet: bool = True,
) -> CLIP:
    """Return a CLIP trained on an archive's images of some classes.

    Args:
      archive: scenes with images of the config's size; attributes ``season`` and ``country`` go into captions.
      classes: to train on.
      config: sizes; the vocabulary is the byte tokenizer's.
      training: how.
      quiet: print no line of progress.

    Raises:
      UserError: a class that the archive lacks, or images of another size.
    """
    images, samples, labels = _read(archive, classes, config)
    texts, captions = np.unique(
        [_captions(archive, classes[label], int(sample)) for sample, label in zip(samples, labels)], return_inverse=True
    )
    captions = captions.reshape(len(images), len(TEMPLATES))
    tokens = tokenize(texts.tolist(), silent_bytes(), config)
    ids = tokens.ids[:, : tokens.end_positions.max() + 1]  # of what comes after the end, nothing is looked at
    order = np.random.default_rng(training.seed)
    model = CLIP(config, rngs=nnx.Rngs(training.seed))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, max(1, training.steps // 10), training.steps
    )
    optimizer = nnx.Optimizer(
        model,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=training.weight_decay)),
        wrt=nnx.Param,
    )
    begin = time.perf_counter()
    for step in range(training.steps):
        chosen = order.integers(len(images), size=training.batch_size)
        caption = captions[chosen, order.integers(len(TEMPLATES))]
        batch = _turned(images[chosen], order), ids[caption], tokens.end_positions[caption], caption
        loss = _step(model, optimizer, *map(jnp.asarray, batch))
        if not quiet and (step + 1) % max(1, training.steps // 4) == 0:
            seconds = time.perf_counter() - begin
            print(f"small CLIP: step {step + 1} of {training.steps}, loss {loss:.3f}, {seconds:.0f} s", file=sys.stderr)
    return model


@nnx.jit
def _step(model: CLIP, optimizer: nnx.Optimizer, images: Array, ids: Array, ends: Array, captions: Array) -> Array:
    def loss(model: CLIP) -> Array:
        text = model.text(model.text.embed(ids), ends)
        return contrastive_loss(model.vision(jnp.asarray(normalize(images))), text, captions, model.logit_scale[...])

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    model.logit_scale[...] = jnp.minimum(model.logit_scale[...], MAX_LOGIT_SCALE)
    return value


def _read(archive: Archive, classes: Sequence[str], config: CLIPConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images of some classes as uint8, their places in the archive, and their places in ``classes``."""
    unknown = [name for name in classes if name not in archive.class_names]
    if unknown:
        raise UserError(f"class {unknown[0]!r}: archive {archive.name} has {', '.join(archive.class_names)}")
    shape = archive.modalities["rgb"].shape if "rgb" in archive.modalities else None
    if shape != (config.image_size, config.image_size, 3):
        raise UserError(
            f"archive {archive.name}: rgb images have shape {shape}; open it with image_size {config.image_size}"
        )
    numbers = [archive.class_names.index(name) for name in classes]
    samples = np.flatnonzero(np.isin(archive.labels, numbers))
    labels = np.array([numbers.index(label) for label in archive.labels[samples]])
    parts = [archive.read("rgb", part) for part in np.array_split(samples, -(-len(samples) // 512))]
    return np.concatenate(parts).astype(np.uint8), samples, labels


def _captions(archive: Archive, name: str, sample: int) -> list[str]:
    words = {"season": "clear", "country": "land"}
    for word in words.keys() & archive.attributes.keys():
        words[word] = str(archive.attributes[word][sample])
    return [template.format(name=name, **words) for template in TEMPLATES]


def _turned(images: np.ndarray, order: np.random.Generator) -> np.ndarray:
    """Return images turned by quarters and mirrored at random: from above, every direction is as good."""
    out = images.copy()
    turns = order.integers(8, size=len(images))
    for turn in range(1, 8):
        some = images[turns == turn]
        some = np.rot90(some, turn % 4, axes=(1, 2))
        out[turns == turn] = some[:, :, ::-1] if turn >= 4 else some
    return out


def small_clip(cache: str | Path = CACHE) -> Path:
    """Return the folder of the demo's CLIP, trained on half of the twin's scene classes at the first call.

    Args:
      cache: folder that keeps it.

    Raises:
      UserError: a folder that cannot be written to.
    """
    folder = Path(cache).expanduser() / f"small-{VERSION}"
    if (folder / "config.json").is_file():
        return folder
    from mmfl_jax.archives.twin.scenes import TwinScenes

    archive = TwinScenes(SMALL_SAMPLES, image_size=SMALL.image_size, seed=IMAGE_SEED)
    classes = half(archive.class_names)
    print(
        f"training a small CLIP on {len(classes)} of {len(archive.class_names)} classes of the twin, once (two minutes "
        f"or so); kept in {folder}",
        file=sys.stderr,
        flush=True,
    )
    model = train(archive, classes, quiet=False)
    try:
        return save(model, folder, trained_classes=list(classes))
    except UserError:
        if (folder / "config.json").is_file():  # another run was faster
            return folder
        raise
