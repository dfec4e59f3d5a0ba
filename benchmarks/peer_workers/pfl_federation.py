"""The workloads in pfl's terms: a model, users' datasets, an algorithm."""

from __future__ import annotations

import itertools
from typing import Any

import pytorch_models
import torch
import workloads
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.stats import MappedVectorStatistics
from protocol import Task
from pytorch_training import Samples, Server, about, loss
from torch import Tensor


class Trained(torch.nn.Module):
    """Give a model the ``loss`` that pfl calls, and add up MIM's projections meanwhile."""

    def __init__(self, work: workloads.Workload, server: Server):
        super().__init__()
        self.model = pytorch_models.make(work, work.modalities, True)
        self.work, self.server, self.relay = work, server, server.empty_relay()

    def loss(self, x: Tensor, y: Tensor, modality: str) -> Tensor:
        """Return the local loss of a batch."""
        self.modality = modality
        output = self.model(x, modality)
        if output[1] is not None:
            with torch.no_grad():
                self.relay[f"relay/{modality}"].addmm_(y.T, output[1])
                self.relay[f"count/{modality}"] += y.sum(dim=0)
        return loss(self.work, output, y, self.server.other_keys(modality))

    def metrics(self, *_: Any) -> dict:
        """Return nothing: nothing is evaluated."""
        return {}


class Model(PyTorchModel):
    """Send running moments and MIM's sums beside the parameters, where the workload has them."""

    def __init__(self, trained: Trained):
        # fused: one call for all parameters of a step.
        make_optimizer = lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, fused=True)
        central = torch.optim.SGD(trained.model.parameters(), lr=1.0, fused=True)
        super().__init__(model=trained, local_optimizer_create=make_optimizer, central_optimizer=central)
        self.trained = trained
        own = trained.model
        moments = {n: b for n, b in own.named_buffers() if "running" in n}
        # pfl keeps, resets and subtracts what is in its variable map.
        self._variable_map = {**dict(own.named_parameters()), **moments}
        self.set_parameters(trained.server.state)

    def get_model_difference(self, other_parameters: Any, clone: bool = False) -> MappedVectorStatistics:
        """Return parameters' change, moments about the received means, and MIM's sums."""
        difference = super().get_model_difference(other_parameters, clone)
        moments = {n: v for n, v in self.variable_map.items() if "running" in n}
        for name, value in about(other_parameters, moments).items():
            # Of an encoder that the user does not hold, nothing is sent, not even the unchanged covariance.
            difference[name] = value if name.split(".")[1] == self.trained.modality else torch.zeros_like(value)
        relay = self.trained.relay
        for name, value in relay.items():
            difference[name] = value
        self.trained.relay = self.trained.server.empty_relay()
        return difference

    def evaluate(self, *_: Any, **__: Any) -> Metrics:
        """Return no metrics; pfl would evaluate every user in its first iteration."""
        return Metrics()

    def apply_model_update(self, statistics: Any) -> tuple[Model, Metrics]:
        """Let the server take the mean over users."""
        server = self.trained.server
        server.update({n: v * server.work.clients for n, v in statistics.items()})
        self.set_parameters(server.state)
        return self, Metrics()

    def variables(self) -> workloads.Arrays:
        """Return the server's variables by the engine's names."""
        return self.trained.server.variables()


def users(task: Task) -> FederatedDataset:
    """Return the clients as pfl's users, with their samples in the order in which they are drawn."""
    work, samples, datasets = task.work, Samples(task.work, task.folder, True), []
    for client in range(work.clients):
        order = samples.order[client].reshape(-1)
        x, y = samples.images[client][order], samples.labels[client][order]
        x = x.permute(0, 3, 1, 2) if samples.nhwc else x
        datasets.append(Dataset((x, y), train_kwargs={"modality": work.holder(client)}))
    return FederatedDataset(datasets.__getitem__, itertools.cycle(range(work.clients)).__next__)


def simulation(task: Task) -> tuple[Model, Any]:
    """Return the model, and a function that runs a central iteration."""
    work = task.work
    model = Model(Trained(work, Server(work, task.folder, True)))
    clients = users(task)
    backend = SimulatedBackend(training_data=clients, val_data=clients, postprocessors=[WeightByDatapoints()])
    training = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=work.rate, local_batch_size=work.batch, local_max_grad_norm=None
    )
    algorithm = FederatedAveraging()
    rounds = itertools.count(1)

    def run() -> None:
        options = NNAlgorithmParams(
            central_num_iterations=next(rounds),
            evaluation_frequency=1 << 30,
            train_cohort_size=work.clients,
            val_cohort_size=0,
        )
        algorithm.run(options, backend, model, training, send_metrics_to_platform=False)

    return model, run
