"""What a method is: which model, objectives and scopes clients learn with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from flax import nnx

from mmfl_jax.federation import Federation
from mmfl_jax.models import ModelDesign, MultiModalModel, SegmentationModel
from mmfl_jax.objectives.objective import Objective

if TYPE_CHECKING:
    from mmfl_jax.study import Study

MakeModel = Callable[[tuple[str, ...]], nnx.Module]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hold what a method makes of a study.

    Attributes:
      make: ``held modalities -> model`` of a client.
      server: the same of the model that the server evaluates; None for the clients'.
      objectives: terms of the local loss beside the task's.
      private: words whose variables stay with the client.
      design: of the model, where it is the multi-modal one; modules change it.
    """

    make: MakeModel
    server: MakeModel | None = None
    objectives: tuple[Objective, ...] = ()
    private: tuple[str, ...] = ()
    design: ModelDesign | None = None

    @classmethod
    def of(cls, design: ModelDesign, seed: int) -> Recipe:
        """Return the recipe of a multi-modal model."""
        model = SegmentationModel if design.by_pixel else MultiModalModel
        return cls(lambda held: model(design, held, nnx.Rngs(seed)), design=design)

    def redesigned(self, design: ModelDesign, seed: int, *objectives: Objective) -> Recipe:
        """Return the recipe with another design, and with further objectives; private words stay."""
        return dataclasses.replace(
            Recipe.of(design, seed), objectives=self.objectives + objectives, private=self.private
        )


@dataclasses.dataclass(frozen=True)
class Method:
    """Describe a method, or a module that is joined to one by ``+``.

    Attributes:
      name: in references.
      summary: one line.
      reference: the paper.
      base: ``(study, federation) -> Recipe``; None for a module.
      module: ``(recipe, study, federation) -> Recipe``; None for a method.
      on_features: whether the model sees features of a frozen CLIP, not images; of a module, whether it can join such a
        method.
      trains: whether anything is trained.
    """

    name: str
    summary: str
    reference: str
    base: Callable[[Study, Federation], Recipe] | None = None
    module: Callable[[Recipe, Study, Federation], Recipe] | None = None
    on_features: bool = False
    trains: bool = True

    def recipe(self, study: Study, federation: Federation) -> Recipe:
        """Return what the method makes of a study."""
        assert self.base is not None
        return self.base(study, federation)
