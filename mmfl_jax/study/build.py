"""From a study's options to the objects they name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import optax
from flax import nnx

from mmfl_jax import archives, cluster, methods
from mmfl_jax.algorithms import Algorithm, Setting, find
from mmfl_jax.engine.augment import augmented
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.engine.program import Program
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.labels import some_clients, with_few_labels, with_flipped_labels, with_noisy_labels
from mmfl_jax.federation.modalities import drop_modalities
from mmfl_jax.federation.owners import owners_of, with_owner_shift
from mmfl_jax.federation.participation import Participation
from mmfl_jax.methods import Recipe
from mmfl_jax.models import Template, drawn
from mmfl_jax.models.normalization import DTYPES
from mmfl_jax.models.scopes import is_private
from mmfl_jax.study import build_clip, sizes
from mmfl_jax.study.study import Study
from mmfl_jax.tasks import task_of
from mmfl_jax.tasks.options import TaskOptions
from mmfl_jax.tasks.pixel import Pixel
from mmfl_jax.tasks.task import Task

MakeModel = Callable[[tuple[str, ...]], nnx.Module]

MOMENTUM = 0.9
# Every optimizer with rate 1: the round's learning rate scales its steps.
CLIENT_OPTIMIZERS = {
    "adam": lambda: optax.adam(1.0),
    "adamw": lambda: optax.adamw(1.0, weight_decay=1e-2),
    "sgd": lambda: optax.sgd(1.0),
    "momentum": lambda: optax.sgd(1.0, momentum=MOMENTUM),
}
ATTACKS = {"nan": np.nan, "large": 1e30, "sign_flip": -1.0}
# Powers of the rarity of a class that weigh its pixels.
_POWERS = {"none": 0.0, "root": 0.5, "balanced": 1.0}


def check(study: Study) -> None:
    """Raise UserError for a method or an algorithm that there is not, or options that do not fit."""
    sizes.check_options(study)
    method = methods.find(study.method.method)
    if method.trains and not study.training.rounds:
        raise UserError(f"--rounds 0: --method {study.method.method} trains; give at least 1")
    find(study.algorithm.algorithm)
    for name, given in (
        ("--owner-shift", study.federation.owner_shift > 0),
        ("--labelled-share", study.federation.labelled_share < 1),
    ):
        if given and method.on_features:
            raise UserError(f"{name}: --method {study.method.method} learns on features of CLIP, not on images")
    if study.execution.evaluation_moments == "own" and cluster.several():
        raise UserError("--evaluation-moments own scores on one host only; evaluate the run there, with --resume")


def open_archive(study: Study) -> archives.Archive:
    """Open the archive that a study names; for learning on features, with CLIP's features in place of images."""
    on_features = methods.find(study.method.method).on_features
    model = build_clip.clip_of(study) if on_features and study.method.prompts.clip else None
    archive = archives.open(
        study.data.archive,
        modalities=[m.strip() for m in study.data.modalities.split(",")] if study.data.modalities else None,
        image_size=study.data.image_size or (model.config.image_size if model else None),
        samples=study.data.samples or None,
        bands=study.data.bands,
        resampling=study.data.resampling,
        seed=study.data_seed,
        image_cache=study.execution.image_cache,
    )
    return build_clip.as_features(study, archive, model) if model else archive


def open_federation(study: Study, archive: archives.Archive | None = None) -> Federation:
    """Deal a study's archive to clients, with the modalities, labels and owners that it asks for.

    Args:
        study: the options.
        archive: what :func:`open_archive` returned for the study; None to open it.
    """
    federation = Federation.split(
        archive or open_archive(study),
        study.federation.partition,
        clients=study.federation.clients,
        assignment=study.federation.modality_assignment,
        test_split=study.federation.test_split,
        validation_share=study.federation.validation_share,
        seed=study.data_seed,
    )
    if study.federation.missing_modalities:
        federation = drop_modalities(federation, study.federation.missing_modalities, study.data_seed)
    if study.federation.owner_shift:
        federation = with_owner_shift(
            federation, study.federation.partition, study.federation.owner_shift, study.data_seed
        )
    if study.federation.label_noise:
        federation = with_noisy_labels(federation, study.federation.label_noise, study.data_seed)
    if study.federation.attack == "label_flip":
        federation = with_flipped_labels(federation, hostile(study, federation))
    if study.federation.labelled_share < 1:
        federation = with_few_labels(federation, study.federation.labelled_share, study.data_seed)
    return federation


def owners_scored(study: Study, federation: Federation) -> np.ndarray | None:
    """Return ``[samples]`` whose each is, where each owner's own moments normalise in tests; else None."""
    if study.execution.evaluation_moments == "pooled":
        return None
    return owners_of(federation, study.federation.partition, study.data_seed)


def hostile(study: Study, federation: Federation) -> np.ndarray:
    """Return the numbers of the clients that a study's attack comes from."""
    return some_clients(federation, study.federation.malicious, study.data_seed)


def attack_of(study: Study, federation: Federation) -> np.ndarray | None:
    """Return what each client's change is multiplied with, ``[clients]``; None where no one's is changed."""
    if study.federation.attack not in ATTACKS:
        return None
    factors = np.ones(federation.clients, np.float32)
    factors[hostile(study, federation)] = ATTACKS[study.federation.attack]
    return factors


def _schedule(kind: str, rate: float, rounds: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, max(rounds, 1)) if kind == "cosine" else optax.constant_schedule(rate)


def normalizer_of(study: Study, federation: Federation, own: Sequence[np.ndarray] | None = None) -> Normalizer:
    """Return what brings images to zero mean and unit variance; features of CLIP stay, for their angles tell.

    Args:
        study: says whether there are images.
        federation: the clients.
        own: ``[clients]`` whether a client's images are read on this host, a group an entry; None for all.
    """
    dtype = DTYPES[study.method.model.precision]
    if not methods.find(study.method.method).on_features:
        return Normalizer.of(federation, dtype, own)
    lengths = {m: spec.shape[-1] for m, spec in federation.archive.modalities.items()}
    constant = lambda value: {m: np.full(length, value, np.float32) for m, length in lengths.items()}
    return Normalizer(constant(0), constant(1), np.dtype(dtype or np.float32))


def algorithm_of(study: Study, servers: int | None = None) -> Algorithm:
    """Return a study's algorithm; ``servers`` of a hierarchy, None where there is none."""
    optimizer = CLIENT_OPTIMIZERS[study.training.client_optimizer]()
    return find(study.algorithm.algorithm, optimizer=optimizer, servers=servers)


def task_for(study: Study, federation: Federation) -> Task:
    """Return the task of a federation's labels, with the loss that a study asks for."""
    task, options = task_of(federation.archive), study.method.task
    if not isinstance(task, Pixel) or options == TaskOptions():
        return task
    totals = np.sum([federation.label_counts(group).sum(axis=0) for group in federation.groups], axis=0)
    return task.weighted(_POWERS[options.class_weights], options.dice_weight, totals)


def program_of(
    study: Study,
    federation: Federation,
    algorithm: Algorithm,
    make_model: MakeModel | None = None,
    repeats: int = 1,
    sampling: float = 1.0,
) -> tuple[Program, MakeModel]:
    """Return the program of a study, and what makes its model.

    Args:
        study: the options.
        federation: the clients.
        algorithm: of the study.
        make_model: makes the model with the parameters of some modalities; None for the study's own.
        repeats: steps of the server in a round of the study: more than one where all samples are in one place.
        sampling: the probability that a client takes part in a round.
    """
    recipe = Recipe(make_model) if make_model else methods.find(study.method.method).recipe(study, federation)
    rate = _schedule(
        study.training.learning_rate_schedule, study.training.client_learning_rate, study.training.rounds * repeats
    )
    server_rate = _schedule(study.algorithm.server_schedule, 1.0, study.training.rounds * repeats)
    weighting = algorithm.weighting or study.algorithm.weighting
    sizes = [g.sizes if weighting == "samples" else np.ones(len(g.ids)) for g in federation.groups]
    words = tuple(word.strip() for word in study.method.private.split(",") if word.strip())
    pooled = algorithm.pooled
    objectives = tuple(o for o in recipe.objectives if not (algorithm.isolated and o.shares))
    program = Program.of(
        recipe.make,
        tuple(federation.archive.modalities),
        tuple(group.modalities for group in federation.groups),
        task=task_for(study, federation),
        private=words + recipe.private + algorithm.private,
        # In one place the server steps, by the clients' optimizer; its one client gives it gradients.
        client_optimizer=optax.sgd(1.0) if pooled else CLIENT_OPTIMIZERS[study.training.client_optimizer](),
        learning_rate=optax.constant_schedule(1.0) if pooled else rate,
        server_rate=rate if pooled else server_rate,
        momentum=MOMENTUM if study.training.client_optimizer == "momentum" and not pooled else 0.0,
        algorithm=algorithm,
        sampling=sampling,
        repeats=repeats,
        objectives=objectives,
        batch_size=study.training.batch_size,
        counts=tuple(len(g.ids) for g in federation.groups),
        weights=tuple(float(s.sum()) for s in sizes),
        largest=float(max(s.max() for s in sizes)),
        augmentation=functools.partial(
            augmented,
            flips=study.training.flips,
            mask_dates=study.training.mask_dates,
            crop=study.training.crop,
            spatial=task_of(federation.archive).spatial,
        ),
        weighting=weighting,
    )
    _check_private(program, words, algorithm)
    if recipe.server is not None:
        server = recipe.server
        template = Template.of(lambda: server(tuple(federation.archive.modalities)))
        program = dataclasses.replace(program, template=template)
    # A model of one's own may look at its weights while it is made; CLIP's are too large for a program's constants.
    make = recipe.make if recipe.design is None else lambda held: drawn(lambda: recipe.make(held))
    return program, make


def _check_private(program: Program, words: tuple[str, ...], algorithm: Algorithm) -> None:
    names = {name for template in program.templates for name in (*template.params, *template.stats)}
    for word in (*words, *algorithm.private):
        if any(is_private(name, [word]) for name in names):
            continue
        if word in words:
            raise UserError(f"--private {word!r} is in no variable's name; words are such as norm or head")
        raise UserError(f"--algorithm keeps {word!r} with clients, but the model has nothing of that name")


def setting_of(study: Study, program: Program, participation: Participation, features: bool, steps: int) -> Setting:
    """Return what an algorithm is run in, by which it tells whether it fits."""
    holders = {n: sum(program.counts[g] for g in program.holders(n)) for n in program.template.params}
    return Setting(
        client_optimizer=study.training.client_optimizer,
        weighting=study.algorithm.weighting,
        clients=sum(program.counts),
        cohort=program.algorithm.buffer or participation.largest,
        steps=steps,
        holders={n: count for n, count in holders.items() if count and not program.is_private(n)},
        rate=sampling_of(participation),
        rounds=study.training.rounds,
        features=features,
        statistics=any(program.sent(g)[1] for g in range(len(program.groups))),
        sums=tuple(o.name for o in program.objectives if o.shares),
    )


def sampling_of(participation: Participation) -> float | None:
    """Return the probability that a client takes part in a round; None where cohorts are of a fixed size below all."""
    return {"all": 1.0, "share": float(participation.cohort.value)}.get(participation.cohort.kind)
