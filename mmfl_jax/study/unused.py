"""Options that change nothing in a study, so that nobody waits for their effect."""

from __future__ import annotations

from collections.abc import Iterator

from mmfl_jax import methods
from mmfl_jax.algorithms import find
from mmfl_jax.archives.base import Archive
from mmfl_jax.options import flag, shown
from mmfl_jax.study.study import OPTIONS, Study
from mmfl_jax.tasks import task_of

_ENCODER = ("encoder", "width", "fusion", "norm")
_BY_PIXEL = ("decoder", "class_weights", "dice_weight", "mim_level")


def unused(study: Study, archive: Archive, given: set[str]) -> list[str]:
    """Return a line for every option that has a value of its own and changes nothing.

    Args:
      study: the options.
      archive: that it opened.
      given: names of options that the user has just given; one that a study brings along for other methods is not told.
    """
    values = study.flat()
    told = [*_of_data(archive), *((name, why) for name, why in _of_others(study) if name in given)]
    return [
        f"{flag(name)} {shown(values[name])} changes nothing: {why}"
        for name, why in told
        if values[name] != OPTIONS[name].default
    ]


def _of_data(archive: Archive) -> Iterator[tuple[str, str]]:
    # Image features were images once.
    axes, images = ({len(spec.shape) for spec in a.modalities.values()} for a in (archive, archive.source))
    if 3 not in images:
        yield from ((name, f"archive {archive.name} has no images") for name in ("image_size", "flips", "crop"))
    if 2 not in axes:
        yield "mask_dates", f"archive {archive.name} has no series"
    if not task_of(archive).spatial:
        yield from ((name, f"archive {archive.name} has no labels by pixel") for name in _BY_PIXEL)


def _of_others(study: Study) -> Iterator[tuple[str, str]]:
    reference, algorithm = study.method.method, study.algorithm.algorithm
    method, parts = methods.find(reference), {part.strip() for part in reference.lower().split("+")}
    for name, option in OPTIONS.items():
        if option.group[-1:] == ("mim",) and "mim" not in parts:
            yield name, f"--method {reference} has no mim"
        elif name.startswith("whitening") and "fw" not in parts:
            yield name, f"--method {reference} has no fw"
        elif option.group[-1:] == ("prompts",) and not method.on_features:
            yield name, f"--method {reference} learns on images, not on features of CLIP"
        elif name in _ENCODER and method.on_features:
            yield name, f"--method {reference} has no encoder of its own"
    if study.federation.attack == "none":
        yield "malicious", "there is no --attack"
    if study.method.logit_calibration == "none":
        yield "calibration_strength", "there is no --logit-calibration"
    if not study.federation.speed:
        yield from ((name, "there is no --speed") for name in ("bandwidth_up", "bandwidth_down"))
    made = find(algorithm)
    if not made.buffer:
        yield "concurrency", f"--algorithm {algorithm} is synchronous"
    else:
        yield "participation", f"--algorithm {algorithm} takes whoever is first"
    if made.pooled:
        for name in ("participation", "dropout", "stragglers", "speed", "server_schedule", "attack"):
            yield name, f"--algorithm {algorithm} has all samples in one place"
    if study.training.local_steps:
        yield "local_epochs", f"--local-steps {study.training.local_steps} are taken"
