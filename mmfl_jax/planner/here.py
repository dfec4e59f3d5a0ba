"""A study on this machine: its round compiled and timed in a few short pieces, then checked by running it whole.

Images are random ones of the right shapes, so that an archive's own need not be read.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.archives.base import Archive
from mmfl_jax.engine.execution import Cohort
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.memory import available_bytes
from mmfl_jax.planner import plan as plans
from mmfl_jax.planner.abstract import unit_normalizer
from mmfl_jax.planner.hlo import Text
from mmfl_jax.rounds import Rounds
from mmfl_jax.study import Study
from mmfl_jax.study.build import open_federation

# Of a short round: full chunks at every home, steps that a longer one has more, how often each is run. The first chunk
# of a round is slower than those after it, which find its arrays in the caches.
_CHUNKS, _STEPS, _TIMES = 4, 4, 3


class StandIn(Archive):
    """Show another archive with random images, and label rasters of nothing, in place of its own."""

    def __init__(self, archive: Archive):
        for name in ("name", "task", "class_names", "modalities", "labels", "attributes", "splits", "notes"):
            setattr(self, name, getattr(archive, name))
        self.copies, self.class_colors = archive.copies, archive.class_colors
        rng = np.random.default_rng(0)
        self._image = {m: rng.standard_normal(spec.shape, np.float32) for m, spec in archive.modalities.items()}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Return one random image, as often as samples are asked for."""
        return np.broadcast_to(self._image[modality], (len(indices), *self._image[modality].shape))

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Return the labels; of pixels those of the first class."""
        if self.task != "pixel":
            return self.labels[indices]
        side = max((spec.shape[:2] for spec in self.modalities.values() if len(spec.shape) == 3), default=())
        return np.zeros((len(indices), *side), np.uint8)


class TimedRounds(Rounds):
    """Hold a federation of random images on this machine's devices."""

    def __init__(self, study: Study):
        federation = open_federation(study)
        super().__init__(study, dataclasses.replace(federation, archive=StandIn(federation.archive)))

    def _normalizer(self) -> Normalizer:
        return unit_normalizer(self.study, self.federation)

    def seconds(self, members: list[np.ndarray], steps: int) -> float:
        """Return what a round of these members of each group takes, of so many steps each: the median of a few."""
        cohort = Cohort(
            members,
            [np.full(len(of), steps) for of in members],
            [np.zeros(len(of), np.int32) for of in members],
        )
        found = []
        for _ in range(_TIMES):
            begin = time.perf_counter()
            self.state, metrics, _ = self.execution.run(self.state, cohort, self._key)
            jax.block_until_ready((self.state, metrics))
            found.append(time.perf_counter() - begin)
        return float(np.median(found))

    def few_chunks(self, group: int) -> tuple[list[np.ndarray], int]:
        """Return the members of a round that has a few full chunks of one group at every home, and how many."""
        homes, size = self.placement.groups[group], self.execution.planner.chunk[group]
        room = self.execution.planner.most[group]
        count = max(1, min(_CHUNKS, room // (size * homes.devices)))
        own = np.concatenate([homes.clients(home)[: count * size] for home in range(homes.devices)])
        members = [np.zeros(0, np.int64) for _ in self.placement.groups]
        members[group] = np.sort(own)[:room]
        return members, max(1, int(self.execution.planner.lay(members)[1].turns[group].max()))


def plan(study: Study, check: bool = True) -> plans.Plan:
    """Return the plan of a study on this machine.

    Args:
      study: the options.
      check: run the whole round too, and say how far off the estimate was.

    Raises:
      UserError: for a study that does not fit.
    """
    rounds = TimedRounds(study)
    rounds.compile()
    compiled = rounds.execution.compiled
    text = Text(compiled.as_text())
    fixed, turn_seconds, step_seconds = _calibrated(rounds)
    work = plans.work_of(rounds)
    homes = work.turns.T @ turn_seconds + work.lengths.T @ step_seconds
    busiest = int(homes.argmax())
    parts = {
        "local steps": float(work.lengths[:, busiest] @ step_seconds),
        "turns": float(work.turns[:, busiest] @ turn_seconds),
        "server": fixed,
    }
    parts = {part: value * rounds.repeats for part, value in parts.items()}
    assert rounds.compile_seconds is not None
    return plans.plan_of(
        rounds,
        text,
        plans.memory_by_kind(text, compiled),
        available_bytes() // rounds.mesh.size,  # devices of a CPU share one memory
        parts,
        homes,
        work.metrics(),
        _peak(),
        topology="",
        step_cycles=(),
        cycles_by_source={},
        cycles_by_operation={},
        compile_seconds=rounds.compile_seconds,
        notes=("seconds: short rounds timed on this machine, with random images; peak: a float32 matmul's here",),
        checked=_checked(rounds, sum(parts.values())) if check else None,
    )


def _calibrated(rounds: TimedRounds) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the seconds of a round of nobody, and ``[groups]`` those of a chunk's turn and of one of its steps."""
    groups = range(len(rounds.program.groups))
    nobody = [np.zeros(0, np.int64) for _ in groups]
    fixed = rounds.seconds(nobody, 0)
    turn, step = np.zeros(len(groups)), np.zeros(len(groups))
    for g in groups:
        members, count = rounds.few_chunks(g)
        short, longer = (rounds.seconds(members, steps) for steps in (1, 1 + _STEPS))
        step[g] = max(longer - short, 0) / (count * _STEPS)
        turn[g] = max((short - fixed) / count - step[g], 0)
    return fixed, turn, step


def _checked(rounds: TimedRounds, estimate: float) -> dict[str, float]:
    """Run the first round whole; return its seconds and how many of them were estimated."""
    cohort, begin = rounds.cohort(0), time.perf_counter()
    for _ in range(rounds.repeats):
        rounds.state, metrics, _ = rounds.execution.run(rounds.state, cohort, rounds._key)
    jax.block_until_ready((rounds.state, metrics))
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "estimated_over_measured": estimate / seconds}


def _peak() -> float:
    """Return the floating-point operations a second of all devices together: a large matmul's, the best of a few."""
    side, best = 2048, float("inf")
    product: Any = jax.jit(jnp.matmul)
    a = jnp.ones((side, side), jnp.float32)
    for _ in range(4):
        begin = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
