"""The workloads for ``flwr.simulation.start_simulation``: older than ``run_simulation``, and without its polling.

It hands clients to Ray through proxies in the server's process; the link state that ``run_simulation`` searches ten
times a second, node by node and message by message, is not there.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from flower_app import client_of_process, held_names
from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.common import FitIns, FitRes, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from protocol import Task
from pytorch_training import Server, State


class Trained(NumPyClient):
    """Train one client."""

    def __init__(self, number: int):
        self.number = number

    def fit(self, parameters: list, config: dict[str, Any]) -> tuple[list, int, dict]:
        """Return what the client sends, its samples, and no metrics."""
        client = client_of_process()
        names = held_names(client.server, client.work.holder(self.number))
        received = {n: torch.from_numpy(v) for n, v in zip(names, parameters, strict=True)}
        sent = client.train(self.number, received)
        return [v.numpy() for v in sent.values()], client.work.samples, {}


def client_fn(context: Context) -> Client:
    """Return the client that a node is."""
    return Trained(int(context.node_config["partition-id"])).to_client()


class Timed(FedAvg):
    """FedAvg of all clients without evaluation, timed from configure_fit to the end of aggregate_fit.

    With MIM each client gets the encoder of its modality, and the server averages what the holders send.
    """

    def __init__(self, task: Task):
        self.work, self.server = task.work, Server(task.work, task.folder, True)
        self.seconds: list[float] = []
        count = task.work.clients
        start = Parameters([], "numpy.ndarray") if self.server.keys else self._parameters(task.work.modalities[0])
        super().__init__(
            fraction_evaluate=0.0, min_fit_clients=count, min_available_clients=count, initial_parameters=start
        )

    def _everything(self) -> State:
        return {**self.server.state, **{f"relay/{m}": k for m, k in self.server.keys.items()}}

    def _parameters(self, modality: str) -> Parameters:
        values = self._everything()
        return ndarrays_to_parameters([values[n].numpy() for n in held_names(self.server, modality)])

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Begin a round."""
        self._begin = time.perf_counter()
        if not self.server.keys:
            return super().configure_fit(server_round, parameters, client_manager)
        orders = {m: FitIns(self._parameters(m), {}) for m in self.work.modalities}
        client_manager.wait_for(self.work.clients)
        proxies = client_manager.all().values()
        return [(proxy, orders[self.work.holder(proxy.partition_id)]) for proxy in proxies]

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: list
    ) -> tuple[Parameters | None, dict]:
        """End a round."""
        if failures:
            raise RuntimeError(f"{len(failures)} clients failed: {failures[0]}")
        if self.server.keys:
            sums = self.server.empty_sums()
            for proxy, result in results:
                m = self.work.holder(proxy.partition_id)
                held = [n for n in held_names(self.server, m) if not n.startswith("relay/")]
                names = [*held, f"relay/{m}", f"count/{m}"]
                for name, value in zip(names, parameters_to_ndarrays(result.parameters), strict=True):
                    sums[name] += torch.from_numpy(value)
            self.server.update(sums)
            averaged: tuple[Parameters | None, dict] = (Parameters([], "numpy.ndarray"), {})
        else:
            averaged = super().aggregate_fit(server_round, results, failures)
            self.averaged = averaged[0]
        self.seconds.append(time.perf_counter() - self._begin)
        return averaged

    def variables(self) -> dict:
        """Return the server's variables by the engine's names."""
        if not self.server.keys:
            arrays = parameters_to_ndarrays(self.averaged)
            names = held_names(self.server, self.work.modalities[0])
            self.server.state = {n: torch.from_numpy(v.copy()) for n, v in zip(names, arrays, strict=True)}
        return self.server.variables()
