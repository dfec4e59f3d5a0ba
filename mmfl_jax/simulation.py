"""A simulation: a study on its federation, round by round."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmfl_jax import costs
from mmfl_jax.algorithms import find
from mmfl_jax.archives.base import Archive
from mmfl_jax.build import MakeModel, normalizer_of, open_federation, program_of
from mmfl_jax.engine.data import group_data, place_slots
from mmfl_jax.engine.execution import Resident, Streamed
from mmfl_jax.engine.plan import Planner, local_steps, sample_cohort
from mmfl_jax.engine.round import client_mesh
from mmfl_jax.engine.state import ServerState, digest
from mmfl_jax.errors import UserError
from mmfl_jax.evaluation import Evaluator, personal
from mmfl_jax.evaluation.evaluate import set_name
from mmfl_jax.evaluation.metrics import most_frequent_baseline
from mmfl_jax.federation import Federation
from mmfl_jax.federation.federation import label_counts
from mmfl_jax.study import Study

# Clients an accelerator trains side by side when --chunk-size is 0, by whether they have images. A CPU core is full
# with one client, and a chunk of one computes nothing for nothing (benchmarks/scaling.py).
_CHUNK = {True: 16, False: 64}
# A client's step through ViT-B/32's text tower keeps some 200 MB for its gradient (two prompts, 31 classes).
_CHUNK_PROMPTS = 8
# Test samples scored at once: images or series, and vectors, of which a model of texts wants many at once.
_TEST_BATCH, _TEST_BATCH_VECTORS = 256, 8192


class Simulation:
    """Hold a federation on the device, and run its rounds.

    Args:
        study: the options.
        federation: the clients; None to open what the study names.
        make_model: ``held modalities -> nnx.Module`` called as ``model(images, train) -> Output``; None for the
            study's own.

    Raises:
        UserError: for options that are unknown or do not fit together.
    """

    def __init__(self, study: Study, federation: Federation | None = None, *, make_model: MakeModel | None = None):
        self.study = study
        self.federation = federation or open_federation(study)
        self._on_features = find(study.algorithm).on_features
        self.own_model = make_model is None
        self.program, make = program_of(study, self.federation, make_model)
        self._place_on_devices()
        self.state = self._initial_state(make)
        self.compile_seconds: float | None = None
        self._evaluator: Evaluator | None = None

    def _place_on_devices(self) -> None:
        study, federation = self.study, self.federation
        found = jax.device_count()
        if study.devices > found:
            raise UserError(f"--devices {study.devices}: this host has {found} {jax.default_backend()} device(s)")
        self.mesh = client_mesh(study.devices)
        self.normalizer = normalizer_of(study, federation)
        relay = self.program.relay
        self._places = relay is not None and relay.source == "places"
        host = group_data(
            federation,
            self.normalizer,
            read_images=not study.stream_mb,
            places=self._places,
            calibration=study.logit_calibration,
            calibration_strength=study.calibration_strength,
        )
        self._steps = [
            local_steps(g.sizes, study.local_epochs, study.batch_size, study.local_steps) for g in federation.groups
        ]
        planner = Planner(self._steps, self._chunk_sizes(), self.mesh.size, study.clients_per_round)
        self.execution: Resident | Streamed
        if study.stream_mb:
            budget = study.stream_mb << 20
            self.execution = Streamed(self.program, self.mesh, planner, host, federation, self.normalizer, budget)
        else:
            self.execution = Resident(self.program, self.mesh, planner, host)

    def _chunk_sizes(self) -> list[int]:
        groups = self.federation.groups
        if self.study.clients_per_round > self.federation.clients:
            raise UserError(
                f"--clients-per-round {self.study.clients_per_round} is more than the {self.federation.clients} clients"
            )
        cohort = self.study.clients_per_round or self.federation.clients
        chosen = self.study.chunk_size
        if chosen > cohort:
            raise UserError(f"--chunk-size {chosen} is more than the {cohort} clients of a round; at most {cohort}")
        sizes = []
        for group in groups:
            specs = [self.federation.archive.modalities[m].shape for m in group.modalities]
            auto = _CHUNK[any(len(shape) == 3 for shape in specs)]
            if find(self.study.algorithm).prompts:
                auto = _CHUNK_PROMPTS
            if jax.default_backend() == "cpu":
                auto = 1
            most = min(cohort, len(group.ids))
            sizes.append(min(chosen or min(auto, -(-most // self.mesh.size)), most))
        return sizes

    def _initial_state(self, make: MakeModel) -> ServerState:
        groups = self.federation.groups
        slots = len(place_slots(self.federation)) if self._places else len(self.federation.archive.class_names)
        model = make(tuple(self.federation.archive.modalities))
        state = self.program.init(model, [len(g.ids) for g in groups], slots)
        return jax.device_put(state, NamedSharding(self.mesh, P()))

    @property
    def round_number(self) -> int:
        """Return the number of rounds done."""
        return int(self.state.round)

    def compile(self) -> None:
        """Compile the round, once."""
        if self.compile_seconds is None:
            begin = time.perf_counter()
            self._key = jax.device_put(jax.random.key(self.study.seed), NamedSharding(self.mesh, P()))
            self.execution.compile(self.state, self._members(0), self._key)
            self.compile_seconds = time.perf_counter() - begin

    def _members(self, round_number: int) -> list[np.ndarray]:
        """Return the numbers within each group of the clients of a round."""
        study = self.study
        cohort = sample_cohort(self.federation.clients, study.clients_per_round, study.seed, round_number)
        return [np.flatnonzero(np.isin(group.ids, cohort)) for group in self.federation.groups]

    def _traffic(self, group: int, chosen: np.ndarray) -> tuple[int, int]:
        if self._places:
            sizes = self.federation.groups[group].sizes[chosen]
            each = [costs.client_bytes(self.program, self.state, group, int(n)) for n in sizes]
            return sum(up for up, _ in each), sum(down for _, down in each)
        up, down = costs.client_bytes(self.program, self.state, group)
        return up * len(chosen), down * len(chosen)

    def run_round(self) -> dict[str, Any]:
        """Run one round; return its metrics."""
        self.compile()
        number = self.round_number
        members = self._members(number)
        begin = time.perf_counter()
        self.state, device_metrics, cost = self.execution.run(self.state, members, self._key)
        metrics = {name: value.item() for name, value in jax.device_get(device_metrics).items()}
        seconds = time.perf_counter() - begin
        traffic = [self._traffic(g, chosen) for g, chosen in enumerate(members)]
        sent = {"bytes_up": sum(up for up, _ in traffic), "bytes_down": sum(down for _, down in traffic)}
        return {"round": number + 1, **metrics, "seconds": seconds, **cost, **sent}

    def evaluate(self, archive: Archive | None = None) -> dict[str, dict[str, Any]]:
        """Return the scores of the global model by modality set.

        Args:
            archive: to score on, with the classes and modalities of the simulation's own: its official test samples,
                or all of it where it has none. None for the simulation's own test samples.

        Raises:
            UserError: for an archive of other classes or modalities.
        """
        if archive is not None:
            _check_alike(self.federation.archive, archive)
            samples = np.arange(len(archive)) if archive.splits is None else np.flatnonzero(archive.splits == "test")
            evaluator = Evaluator(
                archive, samples, self.program.template, self.normalizer, tuple(self.federation.archive.modalities)
            )
        else:
            if self._evaluator is None:
                test = self.federation.test
                batch = _TEST_BATCH_VECTORS if self._on_features else _TEST_BATCH
                self._evaluator = self._evaluator_of(test, min(batch, len(test)))
            evaluator = self._evaluator
        return evaluator.evaluate(*self.program.evaluation_variables(self.state), self.state.frozen)

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Return the global model's probabilities of samples with all their modalities, ``[n, classes]``."""
        evaluator = self._evaluator_of(samples, min(_TEST_BATCH, len(samples)))
        found = evaluator.probabilities(*self.program.evaluation_variables(self.state), self.state.frozen)
        return found[set_name(tuple(self.federation.archive.modalities))]

    def _evaluator_of(self, samples: np.ndarray, batch_size: int, group: int | None = None) -> Evaluator:
        """Return what scores the server's model, or that of a group's clients on what they hold."""
        program, archive = self.program, self.federation.archive
        held = tuple(archive.modalities) if group is None else program.groups[group]
        template = program.template if group is None else program.templates[group]
        return Evaluator(archive, samples, template, self.normalizer, held, batch_size)

    def evaluate_clients(self) -> list[dict[str, Any]]:
        """Return each client's scores on its own samples and modalities, with its private variables if any."""
        rows = []
        params, stats = self.program.evaluation_variables(self.state)
        for g, group in enumerate(self.federation.groups):
            for i, name in enumerate(group.names):
                own = {n: v[i] for n, v in self.state.clients[g].items()}
                own_params, own_stats = ({n: own.get(n, v) for n, v in kind.items()} for kind in (params, stats))
                # One batch size for all: clients of any size share one compilation.
                evaluator = self._evaluator_of(group.client(i), 32, g)
                scores = evaluator.evaluate(own_params, own_stats, self.state.frozen)
                rows.append({"name": name, "modalities": list(group.modalities), "evaluation": scores})
        return rows

    def evaluate_personal(self) -> np.ndarray | None:
        """Return each client's personal accuracy (:mod:`mmfl_jax.evaluation.personal`), ``[clients]``.

        Only of learning on features, where all test samples fit beside each other; None for all else.
        """
        if not self._on_features:
            return None
        archive, test = self.federation.archive, self.federation.test
        (group,) = self.federation.groups  # of the one modality
        classes = len(archive.class_names)
        images = {m: jax.device_put(self.normalizer.read(archive, m, test)) for m in group.modalities}
        variables = (self.state.params, self.state.stats, self.state.frozen)
        labels = archive.labels[test]
        hits = personal.class_hits(
            self.program.templates[0], variables, self.state.clients[0], images, jax.device_put(labels), classes
        )
        counts = np.stack([label_counts(archive, group.client(i))[:-1] for i in range(len(group.ids))])
        return personal.personal_accuracy(np.asarray(hits), np.bincount(labels, minlength=classes), counts)

    def baseline(self) -> dict[str, Any]:
        """Return the scores of always answering with what is most frequent among the training samples."""
        archive = self.federation.archive
        train = np.unique(np.concatenate([group.samples for group in self.federation.groups]))
        labels, classes = archive.labels, len(archive.class_names)
        return most_frequent_baseline(archive.task, labels[train], labels[self.federation.test], classes)

    def cost(self) -> dict[str, Any]:
        """Return floating-point operations a round, compile time and memory."""
        self.compile()
        flops = 0.0
        share = (self.study.clients_per_round or self.federation.clients) / self.federation.clients
        for group, steps in enumerate(self._steps):
            flops += (
                costs.step_flops(self.program, self.state, self.execution.example(group), group)
                * float(steps.sum())
                * share
            )
        return {
            "flops_per_round": flops,
            "compile_seconds": self.compile_seconds,
            "peak_memory_bytes": costs.peak_memory(self.execution.compiled),
        }

    def digest(self) -> str:
        """Return the SHA-256 of the global parameters."""
        return digest(self.state.params)

    def run(
        self, run_dir: str | Path | None = None, *, resume: bool = False, quiet: bool = True, report: bool = True
    ) -> dict[str, Any]:
        """Run the study's rounds and return the summary.

        Args:
            run_dir: where to write configuration, metrics, checkpoints, summary and report; None writes nothing.
            resume: continue from the last checkpoint in ``run_dir``.
            quiet: show no progress.
            report: write figures and report.html at the end.
        """
        from mmfl_jax.runs import run  # the run directory's room knows this one

        return run(self, Path(run_dir) if run_dir else None, resume=resume, quiet=quiet, report=report)


def _check_alike(own: Archive, other: Archive) -> None:
    if other.class_names != own.class_names or other.task != own.task:
        raise UserError(
            f"archive {other.name} has {len(other.class_names)} {other.task} classes, not the {len(own.class_names)} "
            f"{own.task} classes of the run"
        )
    for m, spec in own.modalities.items():
        found = other.modalities[m].shape if m in other.modalities else "nothing"
        if found != spec.shape:
            raise UserError(f"archive {other.name}: modality {m} has {found}, not {spec.shape} as in the run")
