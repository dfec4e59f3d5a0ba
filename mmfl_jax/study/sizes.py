"""What a study will allocate, at the least, compared with the machine before anything is read or made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mmfl_jax import cluster
from mmfl_jax.errors import UserError
from mmfl_jax.memory import check_fits, tree_bytes
from mmfl_jax.options import INT32
from mmfl_jax.study.study import Study

if TYPE_CHECKING:
    from mmfl_jax.archives.base import Archive
    from mmfl_jax.engine.program import Program
    from mmfl_jax.federation import Federation

_FLOAT = 4
# A model, a client's copy of it, and the gradient.
_COPIES = 3
# Bytes of the labels and attributes of a sample of the twin, and the fewest channels of a modality.
_GENERATED = {"twin": (300, 2), "twintiles": (300, 2), "twinscenes": (300, 3)}


def check_options(study: Study) -> None:
    """Raise UserError for options that by themselves ask for more than the machine has."""
    data, width = study.data, study.method.model.width
    # Every encoder has a matrix from its width to its width.
    check_fits(f"--width {width} (weights of a model, of one client and their gradient)", _COPIES * _FLOAT * width**2)
    if data.archive not in _GENERATED:
        return
    each, channels = _GENERATED[data.archive]
    check_fits(f"--samples {data.samples} (their labels and attributes)", data.samples * each)
    if not study.execution.stream_mb:
        # At least half of them train, and stay in memory.
        pixels = data.samples // 2 * data.image_size**2 * channels
        check_fits(f"--samples {data.samples} of --image-size {data.image_size} (their images)", pixels * _FLOAT)


def check_federation(study: Study, federation: Federation) -> None:
    """Raise UserError where images, or those of one batch, do not fit, or steps are more than int32 counts."""
    training, stream = study.training, study.execution.stream_mb << 20
    item = 2 if study.method.model.precision == "bfloat16" else _FLOAT
    shapes = {m: spec.shape for m, spec in federation.archive.modalities.items()}
    sample = [item * sum(math.prod(shapes[m]) for m in group.modalities) for group in federation.groups]
    # Each host holds its own clients' part.
    images = sum(len(group.samples) * each for group, each in zip(federation.groups, sample)) // cluster.count()
    told = ", ".join(f"{m} {'x'.join(map(str, shape))}" for m, shape in shapes.items())
    count = sum(len(group.samples) for group in federation.groups)
    check_fits(
        f"{count:,} training samples of {told} (--samples, --image-size, --stream-mb)",
        min(images, max(stream, *sample)) if stream else images,
    )
    check_fits(f"--batch-size {training.batch_size} of samples {told}", training.batch_size * max(sample))
    largest = max(int(group.sizes.max()) for group in federation.groups)
    steps = training.local_steps or math.ceil(training.local_epochs * largest / training.batch_size)
    if steps * training.batch_size > INT32:
        option = f"--local-steps {steps}" if training.local_steps else f"--local-epochs {training.local_epochs:g}"
        raise UserError(
            f"{option}: {steps:.3g} local steps a round, of --batch-size {training.batch_size}; together at most "
            f"{INT32} samples"
        )


def check_crop(study: Study, archive: Archive) -> None:
    """Raise UserError for a part of images that is larger than they are, or of images of several sizes."""
    crop, sides = study.training.crop, {spec.shape[:2] for spec in archive.modalities.values() if len(spec.shape) == 3}
    told = ", ".join("x".join(map(str, side)) for side in sorted(sides))
    if crop and sides and (len(sides) > 1 or crop > min(next(iter(sides)))):
        raise UserError(f"--crop {crop}: images have {told} pixels; all must have one size, of at least {crop}")


def check_rounds(study: Study, repeats: int) -> None:
    """Raise UserError for more rounds than int32 counts, of ``repeats`` steps of the server each."""
    if study.training.rounds * repeats > INT32:
        raise UserError(
            f"--rounds {study.training.rounds}: each has {repeats:,} steps of the server, and all rounds together at "
            f"most {INT32}"
        )


def check_program(study: Study, program: Program, classes: int, places: int) -> None:
    """Raise UserError where the model, or what is kept for all clients, is more than the machine has."""
    import jax

    from mmfl_jax.models import variable_shapes

    width, mim_size = study.method.model.width, study.method.mim.mim_size
    weights = tree_bytes(variable_shapes(program.template.params))
    check_fits(
        f"weights of a model, of one client and their gradient (--width {width}, --mim-size {mim_size})",
        _COPIES * weights,
    )
    for objective in program.objectives:
        slots = places if objective.by_place else classes
        relayed = jax.eval_shape(lambda o=objective, n=slots: o.init(n))
        check_fits(f"--mim-size {mim_size} for {slots:,} slots of the server", tree_bytes(relayed))
    for group, count in enumerate(program.counts):
        if study.execution.client_memory != "host":
            check_fits(
                f"--algorithm {study.algorithm.algorithm}: what {count:,} clients keep from round to round",
                count * kept_bytes(program, group) // cluster.count(),
            )


def kept_bytes(program: Program, group: int) -> int:
    """Return the bytes that each client of a group keeps from round to round."""
    import jax

    from mmfl_jax.models import variable_shapes

    template = program.template
    first = lambda params, stats: program.first_kept(group, params, stats)
    return tree_bytes(jax.eval_shape(first, variable_shapes(template.params), variable_shapes(template.stats)))
