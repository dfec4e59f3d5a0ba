"""The scores of what a federation has learned: the server's model, and the clients' own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmfl_jax.archives.base import Archive
from mmfl_jax.engine.mesh import put_everywhere, whole
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.state import ServerState
from mmfl_jax.errors import UserError
from mmfl_jax.evaluation import personal
from mmfl_jax.evaluation.evaluate import Evaluator, answer, modality_sets, set_name
from mmfl_jax.evaluation.own import OwnMoments
from mmfl_jax.federation import Federation
from mmfl_jax.federation.placement import Placement

# Test samples scored at once: images or series, and vectors, of which a model of texts wants many at once.
_BATCH, _BATCH_VECTORS = 256, 8192
# Pixels scored at once, at most: of images of more than 128 x 128 fewer go together, for what a model makes of them.
_PIXELS = 2**22
# One batch size for all clients: those of any size share one compilation.
_CLIENT_BATCH = 32
# Clients of a group whose own models are scored where each learns alone.
_ALONE = 100
# Validation samples that tell one threshold, or one option from another; more would cost as much as the test.
_VALIDATION = 2000

Scores = dict[str, dict[str, Any]]


class Scorer:
    """Score the states of a run.

    Args:
        program: what is computed.
        federation: the samples and who holds them.
        clients: as they train: the federation, or all of it in one place.
        normalizer: of images.
        on_features: whether samples are vectors of features.
        placement: the homes of clients, where what they keep lies.
        mesh: the devices.
        owners: ``[samples]`` of the federation's archive, whose each is, to score each with its own moments; None to
            score all with those of training.
    """

    def __init__(
        self,
        program: Program,
        federation: Federation,
        clients: Federation,
        normalizer: Normalizer,
        on_features: bool,
        placement: Placement,
        mesh: Mesh,
        owners: np.ndarray | None = None,
    ):
        self._owners = owners
        self._mesh, self._rows = mesh, [homes.positions for homes in placement.groups]
        self._program, self._federation, self._clients, self._normalizer = program, federation, clients, normalizer
        self._batch = _BATCH_VECTORS if on_features else _batch_of(federation.archive)
        # Of what no client holds the model knows nothing: it is not scored.
        self._held = tuple(m for m in federation.archive.modalities if any(m in held for held in program.groups))
        self._own: Evaluator | None = None  # keeps test images on the device
        self._seen: Evaluator | None = None  # and this validation images

    def test(self, state: ServerState, archive: Archive | None = None) -> Scores:
        """Return the scores by modality set; :meth:`mmfl_jax.Simulation.evaluate` says of what."""
        if archive is None:
            evaluator = self._of_test()
        else:
            _check_alike(self._federation.archive, archive)
            samples = np.arange(len(archive)) if archive.splits is None else np.flatnonzero(archive.splits == "test")
            evaluator = self._evaluator(samples, _batch_of(archive), archive=archive)
        return self._scored(state, evaluator, self._of_validation() if evaluator.task.tunes else None)

    def validation(self, state: ServerState) -> Scores:
        """Return the scores of validation samples, 2,000 at most; empty where there are none."""
        evaluator = self._of_validation()
        return {} if evaluator is None else self._scored(state, evaluator, evaluator if evaluator.task.tunes else None)

    def _scored(self, state: ServerState, evaluator: Evaluator, tuned_on: Evaluator | None) -> Scores:
        if self._program.algorithm.isolated:
            return self._alone(state, evaluator, tuned_on)
        return evaluator.evaluate(*self._program.evaluation_variables(state), state.frozen, tuned_on)

    @property
    def sets(self) -> list[tuple[str, ...]]:
        """Return the modality sets that are scored."""
        return modality_sets(self._held)

    def answer(self, state: ServerState, inputs: dict[str, jax.Array]) -> jax.Array:
        """Return the probabilities for normalised images ``[batch, *shape]`` by modality."""
        program = self._program
        variables = (*program.evaluation_variables(state), state.frozen)
        return answer(program.template, program.task, variables, inputs)

    def predict(
        self,
        state: ServerState,
        samples: np.ndarray,
        seen: Sequence[str] | None = None,
        archive: Archive | None = None,
    ) -> np.ndarray:
        """Return the probabilities of samples by the modalities that are ``seen`` (all), ``[n, ..., classes]``.

        Args:
            state: of the model.
            samples: indices in the archive.
            seen: modalities; None for all that are scored.
            archive: of the samples; None for the federation's own.
        """
        if archive is not None:
            _check_alike(self._federation.archive, archive)
        evaluator = self._evaluator(
            samples, min(_batch_of(archive or self._federation.archive), len(samples)), archive=archive
        )
        return evaluator.probabilities(*self._program.evaluation_variables(state), state.frozen, seen)

    def test_tiles(self, state: ServerState) -> np.ndarray:
        """Return the share of right pixels of every test sample by all modalities; NaN without a label, ``[n]``."""
        evaluator, variables = self._of_test(), self._program.evaluation_variables(state)
        found = evaluator.measured(*variables, state.frozen, sets=[self._held])
        rows = found[set_name(self._held)].rows
        return np.divide(
            rows["hits"], rows["labelled"], out=np.full(len(rows["hits"]), np.nan), where=rows["labelled"] > 0
        )

    def clients(self, state: ServerState) -> list[dict[str, Any]]:
        """Return each client's scores on its own samples and modalities."""
        rows = []
        for g, group in enumerate(self._clients.groups):
            for i, name in enumerate(group.names):
                params, stats = self._program.client_variables(state, g, int(self._rows[g][i]))
                scores = self._evaluator(group.client(i), _CLIENT_BATCH, g).evaluate(params, stats, state.frozen)
                rows.append({"name": name, "modalities": list(group.modalities), "evaluation": scores})
        return rows

    def personal(self, state: ServerState) -> np.ndarray:
        """Return each client's personal accuracy on features, ``[clients]``."""
        archive, test = self._federation.archive, self._federation.test
        (group,) = self._federation.groups  # of the one modality
        labels, classes = archive.labels[test], len(archive.class_names)
        images = {m: put_everywhere(self._mesh, self._normalizer.read(archive, m, test)) for m in group.modalities}
        shared, own = (state.params, state.stats, state.frozen), state.clients[0]["variables"]
        template = self._program.templates[0]
        on_devices = put_everywhere(self._mesh, labels)
        hits = whole(personal.class_hits(template, shared, own, images, on_devices, classes))
        counts = self._federation.label_counts(group)[:, :-1]
        if own:  # else one model's, for all
            hits = hits[self._rows[0]]
        return personal.personal_accuracy(hits, np.bincount(labels, minlength=classes), counts)

    def _alone(self, state: ServerState, evaluator: Evaluator, tuned_on: Evaluator | None) -> Scores:
        """Return, by modality set that clients hold, the mean of their own models' scores, of 100 clients at most."""
        found: dict[str, list[dict[str, Any]]] = {}
        for g, group in enumerate(self._clients.groups):
            name = set_name(group.modalities)
            of_group = group.modalities, self._program.templates[g]
            chosen = evaluator.with_modalities(*of_group)
            seen = chosen if tuned_on is evaluator else tuned_on and tuned_on.with_modalities(*of_group)
            for i in range(min(len(group.ids), _ALONE)):
                params, stats = self._program.client_variables(state, g, int(self._rows[g][i]))
                found.setdefault(name, []).append(
                    chosen.evaluate(params, stats, state.frozen, seen, [group.modalities])[name]
                )
        mean = lambda rows, key: np.mean([row[key] for row in rows]).item()
        numbers = lambda row: [k for k, v in row.items() if isinstance(v, int | float)]
        return {name: {key: mean(rows, key) for key in numbers(rows[0])} for name, rows in found.items()}

    def _of_test(self) -> Evaluator:
        """Return what scores the federation's test samples; it is made once."""
        test = self._federation.test
        self._own = self._own or self._evaluator(test, min(self._batch, len(test)))
        return self._own

    def _of_validation(self) -> Evaluator | None:
        """Return what scores the federation's validation samples, or as many of them as are needed; made once."""
        samples = self._federation.validation
        if self._seen is None and len(samples):
            if len(samples) > _VALIDATION:
                samples = samples[np.linspace(0, len(samples) - 1, _VALIDATION).astype(np.int64)]
            self._seen = self._evaluator(samples, min(self._batch, len(samples)))
        return self._seen

    def _evaluator(
        self, samples: np.ndarray, batch_size: int, group: int | None = None, archive: Archive | None = None
    ) -> Evaluator:
        """Return what scores the server's model, or that of a group's clients on what they hold."""
        program = self._program
        held = self._held if group is None else program.groups[group]
        template = program.template if group is None else program.templates[group]
        source = archive or self._federation.archive
        given = source, samples, template, self._normalizer, held, self._mesh, batch_size
        if self._owners is None:
            return Evaluator(*given)
        # An archive of its own is one stranger's.
        owners = self._owners[samples] if archive is None else np.zeros(len(samples))
        return OwnMoments(*given, owners=owners)


def _check_alike(own: Archive, other: Archive) -> None:
    if len(other.class_names) != len(own.class_names) or other.task != own.task:
        raise UserError(
            f"archive {other.name} has {len(other.class_names)} {other.task} classes, not the {len(own.class_names)} "
            f"{own.task} classes of the run"
        )
    for place, (name, wanted) in enumerate(zip(other.class_names, own.class_names)):
        if name != wanted:
            raise UserError(f"archive {other.name}: class {place} is {name!r}, not {wanted!r} as in the run")
    for m, spec in own.modalities.items():
        found = other.modalities[m].shape if m in other.modalities else "nothing"
        if found != spec.shape:
            raise UserError(f"archive {other.name}: modality {m} has {found}, not {spec.shape} as in the run")
        channels = other.modalities[m].channels
        if channels != spec.channels and set(channels) == set(spec.channels):
            raise UserError(f"archive {other.name}: modality {m} has channels {channels}, not {spec.channels}")


def _batch_of(archive: Archive) -> int:
    """Return how many samples of an archive are scored at once."""
    most = max(
        (spec.shape[0] * spec.shape[1] for spec in archive.modalities.values() if len(spec.shape) == 3), default=1
    )
    return max(1, min(_BATCH, _PIXELS // most))
