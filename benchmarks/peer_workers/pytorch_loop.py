"""A loop in PyTorch, in the strongest forms found.

A variant is words joined by ``+``: ``threads`` (one process, as many threads as cores), ``processes`` (a process of one
thread for each core, weights and sums in shared memory), ``nchw`` (else channels_last), ``compile`` (torch.compile), or
``vmapN`` (N clients side by side under torch.func, for dense models).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import protocol
import torch
import workloads
from pytorch_models import make
from pytorch_training import Samples, Server, State, Trainer, loss
from torch import multiprocessing


def trainers(task: protocol.Task) -> dict[str, Trainer]:
    """Return what trains the clients of each modality."""
    words = task.variant.split("+")
    out = {}
    for m in task.work.modalities:
        model = make(task.work, [m], "nchw" not in words)
        out[m] = Trainer(task.work, model, torch.compile(model) if "compile" in words else None)
    return out


class Loop:
    """Train some clients of each round, one after another, or ``side`` of them side by side."""

    def __init__(self, task: protocol.Task, server: Server, sums: State, clients: Sequence[int]):
        self.task, self.server, self.sums, self.clients = task, server, sums, clients
        self.samples = Samples(task.work, task.folder, "nchw" not in task.variant)
        self.trainers = trainers(task)
        side = re.search(r"vmap(\d+)", task.variant)
        self.side = int(side[1]) if side else 0
        if self.side:
            self._stack()

    def run(self) -> None:
        """Train, and leave what the clients send in the sums."""
        torch._foreach_zero_(list(self.sums.values()))
        if self.side:
            for i in range(0, len(self.clients), self.side):
                self._side_by_side(self.clients[i : i + self.side])
        else:
            for client in self.clients:
                self.trainers[self.task.work.holder(client)].train(self.samples, client, self.server, self.sums)

    def _stack(self) -> None:
        work = self.task.work
        (m,) = work.modalities
        model = self.trainers[m].model
        self._images = torch.stack([self.samples.images[c] for c in range(work.clients)])

        def objective(parameters: State, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return loss(work, torch.func.functional_call(model, parameters, (x,)), y, None)

        gradient = torch.func.vmap(torch.func.grad(objective))
        self._gradient = torch.compile(gradient) if "compile" in self.task.variant else gradient

    @torch.no_grad()
    def _side_by_side(self, clients: Sequence[int]) -> None:
        work, rows = self.task.work, torch.tensor(list(clients))
        received = self.server.state
        local = {n: v.expand(len(rows), *v.shape).clone() for n, v in received.items()}
        for step in range(work.steps):
            order = self.samples.order[rows, step]
            x, y = self._images[rows[:, None], order], self.samples.labels[rows[:, None], order]
            gradients = self._gradient(local, x, y)
            torch._foreach_add_(list(local.values()), [gradients[n] for n in local], alpha=-work.rate)
        for name, value in local.items():
            self.sums[name] += (value - received[name]).sum(dim=0)


def _settings(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def _helper(task: protocol.Task, server: Server, sums: State, clients: Sequence[int], pipe: Any) -> None:
    """Train a share of the clients in a process of its own, whenever asked."""
    _settings(1)
    loop = Loop(task, server, sums, clients)
    with contextlib.suppress(EOFError):  # the pipe ends with the worker
        while pipe.recv():
            loop.run()
            pipe.send(True)


def start_helpers(
    task: protocol.Task, server: Server, shares: Sequence[Sequence[int]]
) -> tuple[list[Any], list[State]]:
    """Start a process for each share; return the pipes to them and the sums that they fill."""
    pipes, sums = [], []
    context = multiprocessing.get_context("spawn")
    for value in (*server.state.values(), *server.keys.values()):
        value.share_memory_()
    for clients in shares:
        own, other = context.Pipe()
        sums.append({n: v.share_memory_() for n, v in server.empty_sums().items()})
        arguments = (task, server, sums[-1], clients, other)
        context.Process(target=_helper, args=arguments, daemon=True).start()
        pipes.append(own)
    return pipes, sums


def main(task: protocol.Task) -> tuple[workloads.Arrays, Any, dict]:
    """Return the loop's first update, and its round."""
    processes = task.cores if "processes" in task.variant else 1
    _settings(task.cores // processes)
    server = Server(task.work, task.folder, "nchw" not in task.variant)
    shares = [range(i, task.work.clients, processes) for i in range(processes)]
    pipes, others = start_helpers(task, server, shares[1:])
    loop = Loop(task, server, server.empty_sums(), shares[0])

    def run() -> None:
        for pipe in pipes:
            pipe.send(True)
        loop.run()
        for pipe in pipes:
            pipe.recv()
        total = loop.sums
        for other in others:
            torch._foreach_add_(list(total.values()), [other[n] for n in total])
        server.update(total)

    run()
    return server.variables(), run, {"version": f"torch {torch.__version__}"}


if __name__ == "__main__":
    protocol.serve(main)
