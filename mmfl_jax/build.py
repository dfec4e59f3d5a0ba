"""From a study's options to the objects they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import optax
from flax import nnx

from mmfl_jax import archives, build_clip
from mmfl_jax.algorithms import Algorithm, Entry, find, proximal
from mmfl_jax.build_clip import DTYPES
from mmfl_jax.engine.augment import Augmentation
from mmfl_jax.engine.data import Normalizer
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.relay import Relay
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.models import ModelDesign, MultiModalModel, Normalization, Template
from mmfl_jax.models.clip.prompts import BRANCHES
from mmfl_jax.models.fusion import FUSIONS
from mmfl_jax.models.multimodal import UNIFIED
from mmfl_jax.models.normalization import MOMENTS, NORMS, PLACES
from mmfl_jax.models.scopes import PRIVATE, scope
from mmfl_jax.objectives.infonce import SOURCES
from mmfl_jax.objectives.losses import CALIBRATIONS
from mmfl_jax.objectives.prompts import Alignment
from mmfl_jax.ops.whitening import METHODS
from mmfl_jax.study import Study

MakeModel = Callable[[tuple[str, ...]], nnx.Module]

# Every optimizer with rate 1: the round's learning rate scales its steps.
CLIENT_OPTIMIZERS = {
    "adam": lambda: optax.adam(1.0),
    "adamw": lambda: optax.adamw(1.0, weight_decay=1e-2),
    "sgd": lambda: optax.sgd(1.0),
    "momentum": lambda: optax.sgd(1.0, momentum=0.9),
}
# FedAvg, FedAvgM, FedAdam and FedAdagrad, with the constants of Reddi et al. (ICLR 2021), whose tau is epsilon here.
SERVER_OPTIMIZERS = {
    "average": lambda rate, epsilon: optax.sgd(rate),
    "momentum": lambda rate, epsilon: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate, epsilon: optax.adam(rate, b1=0.9, b2=0.99, eps=epsilon),
    "adagrad": lambda rate, epsilon: optax.adagrad(rate, initial_accumulator_value=0.0, eps=epsilon),
}
SCHEDULES = ("constant", "cosine")


def check(study: Study) -> None:
    """Raise UserError for the first option of a study whose value is unknown or out of range."""
    entry = find(study.algorithm)
    choices: dict[str, Iterable[str]] = {
        "fusion": FUSIONS,
        "norm": NORMS,
        "whitening": METHODS,
        "whitening_where": PLACES,
        "whitening_moments": MOMENTS,
        "mim_positives": SOURCES,
        "logit_calibration": CALIBRATIONS,
        "client_optimizer": CLIENT_OPTIMIZERS,
        "server_optimizer": SERVER_OPTIMIZERS,
        "learning_rate_schedule": SCHEDULES,
        "server_schedule": SCHEDULES,
        "precision": DTYPES,
        "weighting": ("samples", "uniform"),
        "resampling": ("bilinear", "nearest"),
        "prompt_branches": BRANCHES,
    }
    for field, known in choices.items():
        value = getattr(study, field)
        if value not in known:
            raise UserError(f"{option(field)} {value!r} is unknown; one of {', '.join(known)}")
    positive = ["rounds"] if entry.trains else []
    positive += ["batch_size", "client_learning_rate", "server_learning_rate", "local_epochs"]
    positive += ["server_epsilon", "mim_temperature", "mim_size", "evaluate_every", "checkpoint_every"]
    positive += ["whitening_group", "prompt_tokens"]
    for field in positive:
        if not getattr(study, field) > 0:
            raise UserError(f"{option(field)} must be positive, not {getattr(study, field)}")
    for field, value in dataclasses.asdict(study).items():
        if isinstance(value, int | float) and value < 0:
            raise UserError(f"{option(field)} must not be negative, but is {value}")
    if not study.whitening_epsilon <= 1:
        raise UserError(f"--whitening-epsilon must lie between 0 and 1, not {study.whitening_epsilon}")
    if study.mask_dates >= 1:
        raise UserError(f"--mask-dates must lie between 0 and 1, not {study.mask_dates}")
    if study.bands not in (10, 12):
        raise UserError(f"--bands must be 10 or 12, not {study.bands}")
    build_clip.check(study, entry)


def option(field: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + field.replace("_", "-")


def open_archive(study: Study) -> archives.Archive:
    """Open the archive that a study names; for learning on features, with CLIP's features in place of images."""
    entry = find(study.algorithm)
    model = build_clip.clip_of(study) if entry.on_features and study.clip else None
    archive = archives.open(
        study.archive,
        modalities=[m.strip() for m in study.modalities.split(",")] if study.modalities else None,
        image_size=study.image_size or (model.config.image_size if model else None),
        samples=study.samples or None,
        bands=study.bands,
        resampling=study.resampling,
        seed=study.seed,
    )
    return build_clip.as_features(study, archive, model) if model else archive


def open_federation(study: Study) -> Federation:
    """Open a study's archive and deal it to clients."""
    return Federation.split(
        open_archive(study),
        study.partition,
        clients=study.clients,
        assignment=study.modality_assignment,
        test_split=study.test_split,
        seed=study.seed,
    )


def model_design(study: Study, entry: Entry, federation: Federation) -> ModelDesign:
    """Return the design of a study's model."""
    archive = federation.archive
    norm = Normalization(
        kind=study.norm,
        whitening=study.whitening if entry.whitening else "none",
        where=study.whitening_where,
        group_size=study.whitening_group,
        epsilon=study.whitening_epsilon,
        moments=study.whitening_moments,
        dtype=DTYPES[study.precision],
    )
    return ModelDesign(
        modalities={m: spec.shape for m, spec in archive.modalities.items()},
        outputs=len(archive.class_names),
        design=entry.design,
        fusion=study.fusion,
        encoder=study.encoder,
        width=study.width,
        projection=study.mim_size if entry.mim else 0,
        norm=norm,
    )


def relay_of(study: Study, entry: Entry, federation: Federation) -> Relay | None:
    """Return MIM's relay, None without MIM.

    Raises:
        UserError: when the federation has nothing to compare: one modality, no client with two for ``pairs``, or no
            place that clients of different modalities hold for ``places``.
    """
    if not entry.mim:
        return None
    modalities = tuple(federation.archive.modalities)
    if entry.design == UNIFIED or len(modalities) < 2:
        raise UserError(f"--algorithm {study.algorithm}: MIM compares modalities, but there is only {modalities[0]}")
    groups = federation.groups
    if study.mim_positives == "pairs" and all(len(group.modalities) < 2 for group in groups):
        raise UserError(
            "--mim-positives pairs needs clients with several modalities; choose --modality-assignment all or mixed"
        )
    if study.mim_positives == "places" and not _places_are_shared(federation):
        raise UserError(
            "--mim-positives places needs places that clients of different modalities hold; "
            "choose --modality-assignment split"
        )
    return Relay(study.mim_positives, modalities, study.mim_size, study.mim_weight, study.mim_temperature)


def _places_are_shared(federation: Federation) -> bool:
    seen: dict[int, set[str]] = {}
    for group in federation.groups:
        for sample in group.samples.tolist():
            seen.setdefault(sample, set()).update(group.modalities)
    return any(len(modalities) > 1 for modalities in seen.values())


def algorithm_of(study: Study, entry: Entry) -> Algorithm:
    """Return a study's algorithm."""
    rate = _schedule(study.server_schedule, study.server_learning_rate, study.rounds)
    algorithm = entry.make(SERVER_OPTIMIZERS[study.server_optimizer](rate, study.server_epsilon))
    return proximal(algorithm, study.proximal_weight) if study.proximal_weight else algorithm


def _schedule(kind: str, rate: float, rounds: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, max(rounds, 1)) if kind == "cosine" else optax.constant_schedule(rate)


def normalizer_of(study: Study, federation: Federation) -> Normalizer:
    """Return what brings images to zero mean and unit variance; features of CLIP stay, for their angles tell."""
    dtype = DTYPES[study.precision]
    if not find(study.algorithm).on_features:
        return Normalizer.of(federation, dtype)
    lengths = {m: spec.shape[-1] for m, spec in federation.archive.modalities.items()}
    constant = lambda value: {m: np.full(length, value, np.float32) for m, length in lengths.items()}
    return Normalizer(constant(0), constant(1), np.dtype(dtype or np.float32))


def program_of(study: Study, federation: Federation, make_model: MakeModel | None = None) -> tuple[Program, MakeModel]:
    """Return the program of a study, and what makes its model.

    Args:
        study: the options.
        federation: the clients.
        make_model: makes the model with the parameters of some modalities; None for the study's own.
    """
    check(study)
    entry = find(study.algorithm)
    server_model = None
    if make_model is not None:
        make = make_model
    elif entry.on_features:
        make, server_model = build_clip.make_models(study, entry, federation.archive)
    else:
        design = model_design(study, entry, federation)
        make = lambda held: MultiModalModel(design, held, nnx.Rngs(study.seed))
    program = Program.of(
        make,
        tuple(federation.archive.modalities),
        tuple(group.modalities for group in federation.groups),
        task=federation.archive.task,
        private=tuple(word.strip() for word in study.private.split(",") if word.strip()) + entry.private,
        client_optimizer=CLIENT_OPTIMIZERS[study.client_optimizer](),
        learning_rate=_schedule(study.learning_rate_schedule, study.client_learning_rate, study.rounds),
        algorithm=algorithm_of(study, entry),
        relay=relay_of(study, entry, federation),
        batch_size=study.batch_size,
        augmentation=Augmentation(study.flips, study.mask_dates),
        weighting=study.weighting,
        alignment=Alignment(study.pacl_weight, study.cmfac_weight) if entry.alignment else None,
    )
    names = {name for template in program.templates for name in (*template.params, *template.stats)}
    for word in program.private:
        if not any(scope(name, [word]) == PRIVATE for name in names):
            raise UserError(f"--private {word!r} is in no variable's name; words are such as norm or head")
    if server_model is not None:
        template = Template.of(lambda: server_model(tuple(federation.archive.modalities)))
        program = dataclasses.replace(program, template=template)
    return program, make
