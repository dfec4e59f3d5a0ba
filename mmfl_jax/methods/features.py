"""Methods on image features of a frozen CLIP: prompts, zero-shot, a linear head."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mmfl_jax.federation import Federation
from mmfl_jax.methods.method import Method, Recipe
from mmfl_jax.models.clip.prompts import PRIVATE, SHARED
from mmfl_jax.objectives.prompts import CMFAC, PACL
from mmfl_jax.study import build_clip

if TYPE_CHECKING:
    from mmfl_jax.study import Study


def _prompts(prompts: tuple[str, ...], aligned: bool, study: Study, federation: Federation) -> Recipe:
    make, server = build_clip.prompt_models(study, federation.archive, prompts)
    terms = (PACL(study.method.prompts.pacl_weight), CMFAC(study.method.prompts.cmfac_weight)) if aligned else ()
    weighty = tuple(term for term in terms if term.weight)
    return Recipe(make, server, weighty, (PRIVATE,) if PRIVATE in prompts else ())


def _linear(study: Study, federation: Federation) -> Recipe:
    return Recipe(build_clip.linear_head(study, federation.archive))


FEDRSCLIP = Method(
    "fedrsclip",
    "prompts on a frozen CLIP, one shared and one private, aligned by PACL and CMFAC",
    "Lin et al., 2025, arXiv 2501.02461",
    base=functools.partial(_prompts, (SHARED, PRIVATE), True),
    on_features=True,
)
PROMPTFL = Method(
    "promptfl",
    "one shared prompt on a frozen CLIP, averaged",
    "Guo et al., 2023, arXiv 2208.11625",
    base=functools.partial(_prompts, (SHARED,), False),
    on_features=True,
)
LOCAL_PROMPTS = Method(
    "local-prompts",
    "a prompt a client on a frozen CLIP; nothing travels",
    "a baseline of Lin et al., 2025, arXiv 2501.02461",
    base=functools.partial(_prompts, (PRIVATE,), False),
    on_features=True,
)
CLIP = Method(
    "clip",
    "zero-shot CLIP by --prompt-template; nothing is trained",
    "Radford et al., ICML 2021",
    base=functools.partial(_prompts, (), False),
    on_features=True,
    trains=False,
)
LINEAR = Method(
    "linear",
    "a linear head on features of a frozen CLIP",
    "Radford et al., ICML 2021",
    base=_linear,
    on_features=True,
)
