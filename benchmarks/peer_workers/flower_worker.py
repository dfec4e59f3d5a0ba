"""Flower: a simulation on Ray, each client on one core, as many at once as there are cores."""

from __future__ import annotations

import json
import os
import statistics
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

import flower_app
import flower_proxies
import protocol
import torch
import workloads
from flwr.app import ArrayRecord, Context
from flwr.server import ServerConfig
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation, start_simulation
from pytorch_training import Server


def simulate(task: protocol.Task, rounds: int) -> tuple[workloads.Arrays, list[float]]:
    """Run a simulation from the initial weights; return the server's variables and the seconds of its rounds."""
    server, held = Server(task.work, task.folder, True), {}
    strategy = flower_app.MultiModal(task) if server.keys else flower_app.Timed(task.work.clients)
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        # With MIM the strategy itself holds the variables, for each modality has its own.
        start = ArrayRecord() if server.keys else ArrayRecord(server.state)
        held["result"] = strategy.start(grid, start, num_rounds=rounds)

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": ray_options(task)}
    run_simulation(server_app, flower_app.app, task.work.clients, backend_config=backend)
    if isinstance(strategy, flower_app.MultiModal):
        return strategy.server.variables(), strategy.seconds
    server.state = held["result"].arrays.to_torch_state_dict()
    return server.variables(), strategy.seconds


def simulate_by_proxies(task: protocol.Task, rounds: int) -> tuple[workloads.Arrays, list[float]]:
    """Do as :func:`simulate` does, by ``start_simulation``."""
    strategy = flower_proxies.Timed(task)
    start_simulation(
        client_fn=flower_proxies.client_fn,
        num_clients=task.work.clients,
        client_resources={"num_cpus": 1, "num_gpus": 0.0},
        config=ServerConfig(num_rounds=rounds),
        strategy=strategy,
        ray_init_args=ray_options(task),
    )
    return strategy.variables(), strategy.seconds


def ray_options(task: protocol.Task) -> dict:
    """Return what Ray starts with: a slot for each core."""
    return {"num_cpus": task.cores, "include_dashboard": False}


def main(task: protocol.Task) -> tuple[workloads.Arrays, Any, dict]:
    """Return Flower's first update, and what times a round: the median of a simulation's, without its first."""
    told = {
        "workload": task.work.name,
        "clients": task.work.clients,
        "steps": task.work.steps,
        "folder": str(task.folder.resolve()),
    }
    os.environ["PEER_TASK"] = json.dumps(told)
    form = simulate_by_proxies if task.variant == "start_simulation" else simulate
    update, _ = form(task, 1)
    rounds = 3 if task.work.clients < 100 else 2  # a round of 1,000 clients takes minutes
    run = lambda: statistics.median(form(task, rounds)[1][1:])
    return update, run, {"version": f"flwr 1.41.0, ray 2.55.1, torch {torch.__version__}"}


if __name__ == "__main__":
    protocol.serve(main)
