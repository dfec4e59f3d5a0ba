"""From a study's options to what it needs of CLIP: the weights, image features in place of images, prompt learners."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax import nnx

from mmfl_jax.archives.base import Archive
from mmfl_jax.errors import UserError
from mmfl_jax.models import clip
from mmfl_jax.models.clip.config import read_fields
from mmfl_jax.models.clip.prompts import MEAN, SHARED, LinearHead, PromptLearner, ZeroShot
from mmfl_jax.models.normalization import DTYPES
from mmfl_jax.models.variables import values
from mmfl_jax.study.study import Study
from mmfl_jax.tasks import task_of
from mmfl_jax.tasks.multiclass import Multiclass

# CLIP of random weights, for trials; and the one that is trained here, on half of the twin's scene classes.
TINY, SMALL = "tiny", "small"


def check(study: Study, prompts: tuple[str, ...]) -> None:
    """Raise UserError for the first option of prompts whose value does not fit a method with these ``prompts``."""
    if "{}" not in study.method.prompts.prompt_template:
        raise UserError(
            f"--prompt-template {study.method.prompts.prompt_template!r} has no {{}}, where the class name goes"
        )
    if prompts and study.method.prompts.prompt_branches not in (MEAN, *prompts):
        raise UserError(
            f"--prompt-branches {study.method.prompts.prompt_branches}: --method {study.method.method} has no such "
            f"prompt; mean or {' or '.join(prompts)}"
        )
    if not study.method.prompts.clip:
        raise UserError(
            f"--method {study.method.method} needs --clip, the file or folder of CLIP's weights ({TINY}: random ones, "
            f"{SMALL}: a small CLIP trained here)"
        )


def clip_of(study: Study) -> clip.CLIP:
    """Return a study's CLIP, loaded once.

    Raises:
      UserError: for weights that cannot be read, or a prompt longer than the text tower reads.
    """
    path, tokens = study.method.prompts.clip, study.method.prompts.prompt_tokens
    known = _own_config(path)  # before a small one is trained
    config = known or _load(path, study.method.model.precision).config
    if tokens >= config.context_length:
        raise UserError(
            f"--prompt-tokens {tokens}: the text tower of --clip {path} reads {config.context_length} tokens, class "
            "name included"
        )
    return _load(path, study.method.model.precision)


def _own_config(path: str) -> clip.CLIPConfig | None:
    """Return the sizes of a CLIP that is made here; None for weights in files."""
    if path == TINY:
        return clip.TINY
    if path != SMALL:
        return None
    from mmfl_jax.models.clip import pretrain

    return pretrain.SMALL


@functools.lru_cache(maxsize=1)
def _load(path: str, precision: str) -> clip.CLIP:
    dtype = DTYPES[precision]
    return clip.CLIP(clip.TINY, dtype, rngs=nnx.Rngs(0)) if path == TINY else clip.load(_folder(path), dtype=dtype)


def _folder(path: str) -> Path:
    if path != SMALL:
        return Path(path)
    from mmfl_jax.models.clip.pretrain import small_clip

    return small_clip()


def facts(study: Study) -> dict[str, Any]:
    """Return the sizes of a study's CLIP, for its summary; empty where it has none.

    ``trained_classes`` is there where the weights' ``config.json`` tells what a small CLIP was trained on.
    """
    if not study.method.prompts.clip:
        return {}
    model = clip_of(study)
    config = model.config
    sizes = {
        "parameters": sum(math.prod(value.shape) for value in values(model)[0].values()),
        "text_width": config.text.width,
        "projection": config.projection,
        "image_size": config.image_size,
    }
    path = Path() if study.method.prompts.clip == TINY else _folder(study.method.prompts.clip)
    beside = (path if path.is_dir() else path.parent) / "config.json"
    told = read_fields(beside) if study.method.prompts.clip != TINY and beside.is_file() else {}
    return sizes | {name: told[name] for name in ("trained_classes",) if name in told}


def _tokenizer(study: Study) -> clip.Tokenizer:
    return (
        clip.silent_bytes()
        if study.method.prompts.clip == TINY
        else clip.read_tokenizer(_folder(study.method.prompts.clip))
    )


def as_features(study: Study, archive: Archive, model: clip.CLIP) -> Archive:
    """Return an archive of images with their features in place of them; one of vectors as it is."""
    if all(len(spec.shape) == 1 for spec in archive.modalities.values()):
        return archive
    from mmfl_jax.models.clip.features import FeatureArchive, encode_images

    return FeatureArchive(archive, encode_images(archive, model, cache=study.execution.feature_cache or None))


def feature_length(study: Study, archive: Archive) -> int:
    """Return the length of an archive's image features.

    Raises:
      UserError: for several modalities, images, or more than one class a sample.
    """
    shapes = {m: spec.shape for m, spec in archive.modalities.items()}
    if not study.method.prompts.clip and any(len(shape) == 3 for shape in shapes.values()):
        raise UserError(
            f"--method {study.method.method} on images needs --clip, the weights that make features of them"
        )
    if len(shapes) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise UserError(
            f"--method {study.method.method} needs one modality of image features, archive {archive.name} has "
            f"{shapes}; choose scenes:DIR, or one vector by --modalities"
        )
    if not isinstance(task_of(archive), Multiclass):
        raise UserError(
            f"--method {study.method.method} needs one class a sample (multiclass), archive "
            f"{archive.name} is {archive.task}"
        )
    return next(iter(shapes.values()))[0]


MakeModel = Callable[[tuple[str, ...]], nnx.Module]


def linear_head(study: Study, archive: Archive) -> MakeModel:
    """Return what makes a dense layer on an archive's image features."""
    length = feature_length(study, archive)
    return lambda held: LinearHead(length, len(archive.class_names), nnx.Rngs(study.training.seed))


def prompt_models(study: Study, archive: Archive, prompts: tuple[str, ...]) -> tuple[MakeModel, MakeModel]:
    """Return what makes the clients' model, and what makes the one that the server evaluates.

    Without prompts both are zero-shot. The server has no private prompt: it answers with the shared one alone, where
    there is one.

    Raises:
      UserError: for an archive without image features, or features of another length than the texts'.
    """
    check(study, prompts)
    length, model = feature_length(study, archive), clip_of(study)
    if length != model.config.projection:
        raise UserError(
            f"--clip {study.method.prompts.clip}: its features have length {model.config.projection}, those of archive "
            f"{archive.name} {length}; take the CLIP that made them"
        )
    tokenizer = _tokenizer(study)
    if not prompts:
        texts = [study.method.prompts.prompt_template.replace("{}", name) for name in archive.class_names]
        tokens = clip.tokenize(texts, tokenizer, model.config)
        zero_shot = lambda held: ZeroShot(model, tokens)
        return zero_shot, zero_shot
    names = clip.tokenize(archive.class_names, tokenizer, model.config, reserved=study.method.prompts.prompt_tokens)
    learner = lambda prompts, branches: (
        lambda held: PromptLearner(
            model, names, prompts, study.method.prompts.prompt_tokens, branches, nnx.Rngs(study.training.seed)
        )
    )
    clients = learner(prompts, study.method.prompts.prompt_branches)
    return clients, learner((SHARED,), SHARED) if SHARED in prompts else clients
