"""From a study's options to the objects they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import jax.numpy as jnp
import optax
from flax import nnx

from mmfl_jax import archives
from mmfl_jax.algorithms import Algorithm, Entry, find, proximal
from mmfl_jax.engine.augment import Augmentation
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.relay import Relay
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.models import ModelDesign, MultiModalModel, Normalization
from mmfl_jax.models.fusion import FUSIONS
from mmfl_jax.models.multimodal import UNIFIED
from mmfl_jax.models.normalization import MOMENTS, NORMS, PLACES
from mmfl_jax.models.scopes import PRIVATE, scope
from mmfl_jax.objectives.infonce import SOURCES
from mmfl_jax.objectives.losses import CALIBRATIONS
from mmfl_jax.ops.whitening import METHODS
from mmfl_jax.study import Study

MakeModel = Callable[[tuple[str, ...]], MultiModalModel]

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
DTYPES = {"float32": None, "bfloat16": jnp.dtype(jnp.bfloat16)}


def check(study: Study) -> None:
    """Raise UserError for the first option of a study whose value is unknown or out of range."""
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
    }
    for field, known in choices.items():
        value = getattr(study, field)
        if value not in known:
            raise UserError(f"{option(field)} {value!r} is unknown; one of {', '.join(known)}")
    positive = ["rounds", "batch_size", "client_learning_rate", "server_learning_rate", "local_epochs"]
    positive += ["server_epsilon", "mim_temperature", "mim_size", "evaluate_every", "checkpoint_every"]
    positive += ["whitening_group"]
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
    find(study.algorithm)


def option(field: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + field.replace("_", "-")


def open_archive(study: Study) -> archives.Archive:
    """Open the archive that a study names."""
    return archives.open(
        study.archive,
        modalities=[m.strip() for m in study.modalities.split(",")] if study.modalities else None,
        image_size=study.image_size or None,
        samples=study.samples or None,
        bands=study.bands,
        resampling=study.resampling,
        seed=study.seed,
    )


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
    return optax.cosine_decay_schedule(rate, rounds) if kind == "cosine" else optax.constant_schedule(rate)


def program_of(study: Study, federation: Federation, make_model: MakeModel | None = None) -> tuple[Program, MakeModel]:
    """Return the program of a study, and what makes its model.

    Args:
        study: the options.
        federation: the clients.
        make_model: makes the model with the parameters of some modalities; None for the study's own.
    """
    check(study)
    entry = find(study.algorithm)
    design = model_design(study, entry, federation)
    make = make_model or (lambda held: MultiModalModel(design, held, nnx.Rngs(study.seed)))
    program = Program.of(
        make,
        tuple(federation.archive.modalities),
        tuple(group.modalities for group in federation.groups),
        task=federation.archive.task,
        private=tuple(word.strip() for word in study.private.split(",") if word.strip()),
        client_optimizer=CLIENT_OPTIMIZERS[study.client_optimizer](),
        learning_rate=_schedule(study.learning_rate_schedule, study.client_learning_rate, study.rounds),
        algorithm=algorithm_of(study, entry),
        relay=relay_of(study, entry, federation),
        batch_size=study.batch_size,
        augmentation=Augmentation(study.flips, study.mask_dates),
        weighting=study.weighting,
    )
    names = [*program.template.params, *program.template.stats]
    for word in program.private:
        if not any(scope(name, [word]) == PRIVATE for name in names):
            raise UserError(f"--private {word!r} is in no variable's name; words are such as norm or head")
    return program, make
