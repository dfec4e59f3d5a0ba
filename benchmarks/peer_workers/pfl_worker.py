"""pfl-research: its simulated backend, FederatedAveraging and PyTorch model; ``threads`` or ``processes``.

With ``processes`` a process of one thread for each core takes its share of the cohort, and pfl reduces over them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import protocol
import torch
import workloads
from torch import multiprocessing


def _helper(task: protocol.Task, pipe: Any) -> None:
    """Take part in every round as a further rank."""
    # pfl joins the ranks in main processes only, so that a data loader's processes do not; this one is none.
    multiprocessing.current_process().name = "MainProcess"
    run = _simulation(task, 1)[1]
    with contextlib.suppress(EOFError):  # the pipe ends with the worker
        while pipe.recv():
            run()


def _simulation(task: protocol.Task, threads: int) -> tuple[Any, Any]:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    # Imported only now: pfl reads its rank when it is imported.
    from pfl_federation import simulation

    return simulation(task)


def main(task: protocol.Task) -> tuple[workloads.Arrays, Any, dict]:
    """Return pfl's first update, and its round."""
    processes = task.cores if task.variant == "processes" else 1
    pipes = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        os.environ["PFL_WORKER_ADDRESSES"] = ",".join(f"localhost:{port + i}" for i in range(processes))
        context = multiprocessing.get_context("spawn")
        for rank in range(1, processes):
            os.environ["PFL_WORKER_RANK"] = str(rank)
            own, other = context.Pipe()
            context.Process(target=_helper, args=(task, other), daemon=True).start()
            pipes.append(own)
        os.environ["PFL_WORKER_RANK"] = "0"
    model, own_round = _simulation(task, task.cores // processes)

    def run() -> None:
        for pipe in pipes:
            pipe.send(True)
        own_round()

    run()
    return model.variables(), run, {"version": f"pfl 0.6.0, torch {torch.__version__}"}


if __name__ == "__main__":
    protocol.serve(main)
