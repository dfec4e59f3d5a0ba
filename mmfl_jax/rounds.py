"""A study on its federation, round by round."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmfl_jax import cluster, costs, methods
from mmfl_jax.archives.base import Archive
from mmfl_jax.attendance import Attendance
from mmfl_jax.engine.chunks import chunk_sizes
from mmfl_jax.engine.data import Samples
from mmfl_jax.engine.execution import Cohort, Resident, Streamed
from mmfl_jax.engine.host_memory import DeviceMemory, HostMemory
from mmfl_jax.engine.mesh import client_mesh, device_bytes, own_homes, platform_of, run_key
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.engine.plan import Planner, local_steps
from mmfl_jax.engine.state import ServerState, digest
from mmfl_jax.errors import UserError
from mmfl_jax.evaluation import Scorer
from mmfl_jax.federation import Federation
from mmfl_jax.federation.federation import pooled
from mmfl_jax.federation.hierarchy import servers_of
from mmfl_jax.federation.participation import Participation
from mmfl_jax.federation.placement import Placement, best_span
from mmfl_jax.study import Study, sizes
from mmfl_jax.study.build import (
    MakeModel,
    algorithm_of,
    attack_of,
    check,
    normalizer_of,
    open_federation,
    owners_scored,
    program_of,
    sampling_of,
    setting_of,
)
from mmfl_jax.tasks import task_of


class Rounds:
    """Hold a federation on the device, and run its rounds; :class:`mmfl_jax.Simulation` adds the whole run.

    Args:
        study: the options.
        federation: the clients; None to open what the study names.
        make_model: ``held modalities -> nnx.Module`` called as ``model(images, train) -> Output``; None for the
            study's own.

    Raises:
        UserError: for options that are unknown or do not fit together.
    """

    def __init__(self, study: Study, federation: Federation | None = None, *, make_model: MakeModel | None = None):
        check(study)
        self.study = study
        self.federation = federation or open_federation(study)
        cluster.agree({"data": {"clients and samples": self.federation.digest()}} if cluster.several() else {})
        self._on_features = methods.find(study.method.method).on_features
        self.own_model = make_model is None
        #: The server of each client in a hierarchy; None where there is none.
        self.servers = servers_of(self.federation, study.federation.servers) if study.federation.servers else None
        algorithm = algorithm_of(study, None if self.servers is None else int(self.servers.max()) + 1)
        if self.servers is not None and not algorithm.servers:
            raise UserError(
                f"--servers {study.federation.servers}: --algorithm {study.algorithm.algorithm} has one server; add "
                "+hierarchical"
            )
        self._clients = pooled(self.federation) if algorithm.pooled else self.federation
        sizes.check_federation(study, self._clients)
        sizes.check_crop(study, self.federation.archive)
        self._steps = [
            local_steps(n, study.training.local_epochs, study.training.batch_size, study.training.local_steps)
            for n in (group.sizes for group in self._clients.groups)
        ]
        #: Steps of the server in a round: as many as an epoch has where all samples are in one place.
        self.repeats = int(max(s.max() for s in self._steps)) if algorithm.pooled else 1
        sizes.check_rounds(study, self.repeats)
        if algorithm.pooled:
            self._steps = [np.ones_like(s) for s in self._steps]
        # Samples in one place neither drop out nor lag, and no owner is hostile there.
        who = study.federation
        self._participation = Participation.of(
            self._clients,
            "all" if algorithm.pooled else who.participation,
            dropout=0.0 if algorithm.pooled else who.dropout,
            stragglers=0.0 if algorithm.pooled else who.stragglers,
            seed=study.training.seed,
            steps=self._steps,
        )
        sampling = sampling_of(self._participation)
        self.mesh = self._mesh()
        made, make = program_of(study, self._clients, algorithm, make_model, self.repeats, sampling or 1.0)
        self.program = dataclasses.replace(made, span=self.mesh.devices.shape[1])
        sizes.check_program(study, self.program, len(self.federation.archive.class_names), len(self._clients.train))
        self._place_on_devices()
        self.state = self._initial_state(make)
        features = jax.eval_shape(self._output, self.state).features is not None
        most_steps = int(max(s.max() for s in self._steps))
        algorithm.check(setting_of(study, self.program, self._participation, features, most_steps))
        examples = [self.execution.example(g) for g in range(len(self.program.groups))]
        #: Who takes part in which round, and what travels.
        self.attendance = Attendance(
            study, self._clients, self._participation, self._steps, self.program, self.state, examples
        )
        self.compile_seconds: float | None = None
        self._scorer = Scorer(
            self.program,
            self.federation,
            self._clients,
            self.normalizer,
            self._on_features,
            self.placement,
            self.mesh,
            owners_scored(study, self.federation),
        )

    def _output(self, state: ServerState) -> Any:
        """Return what a client's model of the first group answers to one batch of zeros."""
        images = {
            m: np.zeros((1, *self.federation.archive.modalities[m].shape), np.float32) for m in self.program.groups[0]
        }
        params, stats = self.program.client_variables(state, 0, 0)
        return self.program.templates[0].module(params, stats, state.frozen)(images, train=True)

    def _mesh(self) -> Mesh:
        """Return the devices, a home a row."""
        study = self.study
        there = self._devices()
        found, devices = len(there), study.execution.devices
        if devices > found or (devices and devices < found and cluster.several()):
            where = f"{jax.process_count()} processes have" if cluster.several() else "this host has"
            whole = ", and all of them are used" if cluster.several() else ""
            raise UserError(f"--devices {devices}: {where} {found} {there[0].platform} device(s){whole}")
        span, count = study.execution.devices_per_client, devices or found
        if not span and not self.own_model:
            span = 1  # who knows what its layers do across a batch
        if not span:
            sizes = [group.sizes for group in self._clients.groups]
            cohort = min(sum(self._participation.most), self._participation.largest)
            span = best_span(self._steps, sizes, count, study.training.batch_size, cohort)
        if count % span or study.training.batch_size % span:
            raise UserError(
                f"--devices-per-client {span} must divide both the {count} devices and --batch-size "
                f"{study.training.batch_size}"
            )
        return client_mesh(devices, span, there)

    def _devices(self) -> Sequence[jax.Device]:
        """Return the devices to choose from."""
        return jax.devices()

    def _place_on_devices(self) -> None:
        study, federation = self.study, self._clients
        homes = self.mesh.devices.shape[0]
        #: The home of every client.
        self.placement = Placement.of(self._steps, [g.sizes for g in federation.groups], homes, self._strata(homes))
        self.normalizer = self._normalizer()
        samples = self._samples(
            federation,
            self.normalizer,
            self.placement,
            places=self.program.by_place,
            calibration=study.method.logit_calibration,
            calibration_strength=study.method.calibration_strength,
            attack=None if self.program.algorithm.pooled else attack_of(study, federation),
            servers=self.servers,
        )
        most = list(self._participation.most)
        if buffer := self.program.algorithm.buffer:
            most = [min(buffer, len(g.ids)) for g in federation.groups]
        at_home = int(self._participation.cohort.value) // homes if self._participation.cohort.strata else None
        self._on_host = self._memory_on_host()
        planner = Planner(self._steps, self._chunk_sizes(most), self.placement, most, at_home, self._on_host)
        memory = HostMemory(self.mesh, self.placement) if self._on_host else DeviceMemory()
        parts = self.program, self.mesh, planner, samples, memory
        self.execution: Resident | Streamed
        if study.execution.stream_mb:
            self.execution = Streamed(*parts, study.execution.stream_mb << 20)
        else:
            self.execution = Resident(*parts)

    def _strata(self, homes: int) -> int:
        strata = self._participation.cohort.strata
        if strata % homes:
            option = f"--participation {self.study.federation.participation}"
            raise UserError(f"{option}: {strata} strata are no multiple of the {homes} homes on these devices")
        return strata

    def _memory_on_host(self) -> bool:
        """Return whether what clients keep is to lie on the host."""
        asked = self.study.execution.client_memory
        if asked == "auto" and not cluster.several():
            return self._kept_bytes > self._device_bytes() // 2
        if asked == "host" and cluster.several():
            raise UserError("--client-memory host: what clients keep lies on the host in one process only; use device")
        return asked == "host"

    @functools.cached_property
    def _kept_bytes(self) -> int:
        """Return the bytes of what clients of one home keep from round to round."""
        groups = enumerate(self.placement.groups)
        return sum(homes.rows * sizes.kept_bytes(self.program, group) for group, homes in groups)

    def _device_bytes(self) -> int:
        # Of the smallest of all hosts: what follows from it is compiled into the program that all of them run.
        return cluster.least(device_bytes(self.mesh))

    #: Puts what devices hold of the federation onto them.
    _samples: Callable[..., Samples] = Samples

    def _normalizer(self) -> Normalizer:
        own = own_homes(self.mesh)
        return normalizer_of(self.study, self._clients, [own[homes.device] for homes in self.placement.groups])

    def _chunk_sizes(self, most: list[int]) -> list[int]:
        chosen, cohort = self.study.execution.chunk_size, min(sum(most), self._participation.largest)
        if chosen > cohort:
            raise UserError(f"--chunk-size {chosen} is more than the {cohort} clients of a round; at most {cohort}")
        if chosen:
            return [min(chosen, count) for count in most]
        share = self._participation.expected / self._clients.clients
        expected = [min(n, max(1, round(share * len(g.ids)))) for n, g in zip(most, self._clients.groups)]
        dtype = self.normalizer.dtype
        shapes = {m: jax.ShapeDtypeStruct(s.shape, dtype) for m, s in self.federation.archive.modalities.items()}
        platform, free = platform_of(self.mesh), self._device_bytes() - self._held_bytes(dtype.itemsize)
        return chunk_sizes(self.program, shapes, self._steps, self.placement, expected, platform, free)

    def _held_bytes(self, item: int) -> int:
        """Return what a device holds between rounds: images, ``item`` bytes a number, and what clients keep."""
        images = self.study.execution.stream_mb << 20
        if not images:
            for clients, homes in zip(self._clients.groups, self.placement.groups):
                sample = sum(math.prod(self.federation.archive.modalities[m].shape) for m in clients.modalities)
                fullest = np.bincount(homes.device, clients.sizes, homes.devices).max()
                images += int(fullest) * sample * item // self.program.span
        return images + (0 if self._on_host else self._kept_bytes)

    def _initial_state(self, make: MakeModel) -> ServerState:
        model = make(tuple(self.federation.archive.modalities))
        places = len(self._clients.train) if self.program.by_place else 0
        classes = len(self.federation.archive.class_names)
        return self.program.init(model, classes, places, self.placement, self.mesh, on_host=self._on_host)

    @property
    def round_number(self) -> int:
        """Return the number of rounds done."""
        return int(self.state.round) // self.repeats

    def compile(self) -> None:
        """Compile the round, once."""
        if self.compile_seconds is None:
            begin = time.perf_counter()
            self._key = run_key(self.mesh, self.study.training.seed)
            self.execution.compile(self.state, self.cohort(0), self._key)
            self.compile_seconds = time.perf_counter() - begin

    def cohort(self, round_number: int) -> Cohort:
        """Return who takes part in a round, with their local steps and delays."""
        return self.attendance.cohort(round_number)

    def run_round(self) -> dict[str, Any]:
        """Run one round; return its metrics."""
        self.compile()
        number = self.round_number
        cohort = self.cohort(number)
        begin = time.perf_counter()
        rows = []
        last = number + 1 >= self.study.training.rounds
        for repeat in range(1, self.repeats + 1):
            following = (lambda: cohort) if repeat < self.repeats else None if last else lambda: self.cohort(number + 1)
            self.state, device_metrics, cost = self.execution.run(self.state, cohort, self._key, following)
            rows.append(device_metrics)
        found = jax.device_get(rows)
        metrics = {n: float(np.mean([row[n] for row in found])) for n in found[0]}
        metrics["skipped_clients"] = int(sum(row["skipped_clients"] for row in found))
        seconds = time.perf_counter() - begin
        cost = {**cost, "client_steps": cost["client_steps"] * self.repeats}
        return {"round": number + 1, **metrics, "seconds": seconds, **cost, **self.attendance.sent(number, cohort)}

    def evaluate(self, archive: Archive | None = None) -> dict[str, dict[str, Any]]:
        """Return the scores of the global model by modality set.

        Args:
            archive: to score on, with the classes and modalities of the simulation's own: its official test samples,
                or all of it where it has none. None for the simulation's own test samples.

        Raises:
            UserError: for an archive of other classes or modalities.
        """
        return self._scorer.test(self.state, archive)

    def evaluate_validation(self) -> dict[str, dict[str, Any]]:
        """Return the global model's scores of validation samples by modality set; empty where there are none."""
        return self._scorer.validation(self.state)

    @property
    def scored_sets(self) -> list[tuple[str, ...]]:
        """Return the modality sets that are scored: each that a client holds alone, then all together."""
        return self._scorer.sets

    def predict(
        self, samples: np.ndarray, modalities: Sequence[str] | None = None, archive: Archive | None = None
    ) -> np.ndarray:
        """Return the global model's probabilities of samples, ``[n, ..., classes]``.

        Args:
            samples: indices in the archive.
            modalities: that the model sees; None for all.
            archive: of the samples; None for the simulation's own.

        Raises:
            UserError: for an archive of other classes or modalities.
        """
        return self._scorer.predict(self.state, samples, modalities, archive)

    def answer(self, inputs: dict[str, jax.Array]) -> jax.Array:
        """Return the global model's probabilities for normalised images ``[batch, *shape]`` by modality."""
        return self._scorer.answer(self.state, inputs)

    def test_tiles(self) -> np.ndarray:
        """Return, of labels by pixel, the share of right pixels of every test sample, ``[n]``; NaN without a label."""
        return self._scorer.test_tiles(self.state)

    def evaluate_clients(self) -> list[dict[str, Any]]:
        """Return each client's scores on its own samples and modalities, with its private variables if any."""
        return self._scorer.clients(self.state)

    def evaluate_personal(self) -> np.ndarray | None:
        """Return each client's personal accuracy (:mod:`mmfl_jax.evaluation.personal`), ``[clients]``.

        Only of learning on features, where all test samples fit beside each other; None for all else.
        """
        return self._scorer.personal(self.state) if self._on_features else None

    def baseline(self) -> dict[str, Any]:
        """Return the scores of always answering with what is most frequent among the training samples."""
        archive, train, test = self.federation.archive, self.federation.train, self.federation.test
        return task_of(archive).baseline(archive.labels[train], archive.labels[test])

    def cost(self) -> dict[str, Any]:
        """Return floating-point operations a round, compile time and memory."""
        self.compile()
        return {
            "flops_per_round": self.flops(),
            "compile_seconds": self.compile_seconds,
            "peak_memory_bytes": costs.peak_memory(self.execution.compiled),
        }

    def flops(self) -> float:
        """Return the floating-point operations of a round, as XLA counts what is written."""
        flops, share = 0.0, self._participation.expected / self._clients.clients
        if buffer := self.program.algorithm.buffer:
            share = buffer / self._clients.clients
        for group, steps in enumerate(self._steps):
            data = self.execution.example(group)
            each = costs.step_flops(self.program, self.state, data, group) * float(steps.sum())
            around = costs.round_flops(self.program, self.state, data, group) * len(steps)
            flops += (each + around) * share * self.repeats
        return flops

    def privacy(self) -> dict[str, float] | None:
        """Return epsilon and delta of the rounds done so far; None where the algorithm promises nothing."""
        promise = self.program.algorithm.privacy
        rate = sampling_of(self._participation)
        return None if promise is None or rate is None else promise(self.round_number, rate)

    def digest(self) -> str:
        """Return the SHA-256 of the global parameters."""
        return digest(self.state.params)
