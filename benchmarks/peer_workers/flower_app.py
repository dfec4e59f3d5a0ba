"""The workloads in Flower's terms: a ClientApp for Ray's processes, and strategies for the server.

Ray's processes import this module; what they work on stands in the environment variable ``PEER_TASK``.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import time
from collections.abc import Iterable

import torch
import workloads
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from protocol import Task
from pytorch_models import make
from pytorch_training import Samples, Server, State, Trainer

app = ClientApp()


def held_names(server: Server, modality: str) -> list[str]:
    """Return what is sent to a client with a modality: its variables, then all prototypes."""
    names = [n for n in server.state if n.split(".")[1] == modality or not n.startswith(("encoders", "projectors"))]
    return names + [f"relay/{m}" for m in server.keys]


class Client:
    """Hold what a process of Ray keeps from client to client: models and samples."""

    def __init__(self, task: Task):
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self.work = task.work
        self.samples = Samples(task.work, task.folder, True)
        self.server = Server(task.work, task.folder, True)
        self.trainers = {m: Trainer(task.work, make(task.work, [m], True)) for m in task.work.modalities}

    def train(self, client: int, received: State) -> State:
        """Return what a client sends: its parameters, or with MIM all that :class:`Server` averages."""
        trainer, m = self.trainers[self.work.holder(client)], self.work.holder(client)
        for name in (*trainer.parameters, *trainer.moments):
            self.server.state[name] = received[name]
        for name, keys in self.server.keys.items():
            keys.copy_(received[f"relay/{name}"])
        if not self.server.keys:
            trainer.fit(self.samples, client, self.server, {})
            return {n: v.detach() for n, v in trainer.parameters.items()}
        names = [n for n in received if "/" not in n]
        sums = {n: torch.zeros_like(received[n]) for n in names} | self.server.empty_relay()
        trainer.train(self.samples, client, self.server, sums)
        return {n: v for n, v in sums.items() if "/" not in n or n.endswith(f"/{m}")}


@functools.cache
def client_of_process() -> Client:
    """Return this process's client, made once."""
    told = json.loads(os.environ["PEER_TASK"])
    work = workloads.workload(told["workload"], told["clients"], told["steps"])
    return Client(Task(work, "", pathlib.Path(told["folder"]), 1))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client that this node is."""
    number = int(context.node_config["partition-id"])
    client = client_of_process()
    received = message.content["arrays"].to_torch_state_dict()
    sent = ArrayRecord(client.train(number, received))
    examples = MetricRecord({"num-examples": client.work.samples})
    return Message(content=RecordDict({"arrays": sent, "metrics": examples}), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which client this node is."""
    number = MetricRecord({"client": int(context.node_config["partition-id"])})
    return Message(content=RecordDict({"metrics": number}), reply_to=message)


class Timed(FedAvg):
    """FedAvg of all clients without evaluation, timed from configure_train to the end of aggregate_train."""

    def __init__(self, clients: int):
        super().__init__(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        self.seconds: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin a round."""
        self._begin = time.perf_counter()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """End a round."""
        replies = list(replies)
        failed = [reply for reply in replies if reply.has_error()]
        if failed:
            raise RuntimeError(f"{len(failed)} clients failed: {failed[0].error.reason}")
        averaged = super().aggregate_train(server_round, replies)
        self.seconds.append(time.perf_counter() - self._begin)
        return averaged


class MultiModal(Timed):
    """Send each client the encoder of its modality, and average what the clients that hold a variable send."""

    def __init__(self, task: Task):
        super().__init__(task.work.clients)
        self.work, self.server = task.work, Server(task.work, task.folder, True)
        self.client_of: dict[int, int] = {}

    def _construct_messages(self, record: RecordDict, node_ids: list[int], message_type: str) -> Iterable[Message]:
        contents, values = {}, self.server.state | {f"relay/{k}": v for k, v in self.server.keys.items()}
        for m in self.work.modalities:
            arrays = ArrayRecord({n: values[n] for n in held_names(self.server, m)})
            contents[m] = RecordDict({"arrays": arrays, "config": record["config"]})
        content = lambda node: contents[self.work.holder(self.client_of[node])]
        return [Message(content=content(node), message_type=message_type, dst_node_id=node) for node in node_ids]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Begin a round; before the first, ask each node which client it is."""
        while len(self.client_of) < self.work.clients:
            nodes = [n for n in grid.get_node_ids() if n not in self.client_of]
            asked = [Message(content=RecordDict(), message_type=MessageType.QUERY, dst_node_id=n) for n in nodes]
            for reply in grid.send_and_receive(asked):
                self.client_of[reply.metadata.src_node_id] = int(reply.content["metrics"]["client"])
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average, and end the round."""
        sums = self.server.empty_sums()
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(f"a client failed: {reply.error.reason}")
            for name, value in reply.content["arrays"].to_torch_state_dict().items():
                sums[name] += value
        self.server.update(sums)
        self.seconds.append(time.perf_counter() - self._begin)
        return ArrayRecord(), None
