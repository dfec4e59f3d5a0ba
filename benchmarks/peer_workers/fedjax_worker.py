"""FedJAX: ``fedjax.for_each_client`` with client steps jitted one by one, its jit or its pmap backend.

Running moments and MIM's sums ride in the client's step state, which may be any pytree; so it can do all workloads.
"""

from __future__ import annotations

from typing import Any

import fedjax
import fedjax_models
import jax
import jax.numpy as jnp
import numpy as np
import protocol
import workloads

Variables = dict[str, jax.Array]


def _outer(shift: jax.Array, like: jax.Array) -> jax.Array:
    groups = shift.reshape(like.shape[0], -1)
    return shift * shift if like.ndim == 1 else groups[:, :, None] * groups[:, None, :]


def _mean_of(name: str) -> str:
    return name.rpartition("/")[0] + "/mean"


def client_functions(work: workloads.Workload, modality: str) -> tuple[Any, Any, Any]:
    """Return FedJAX's client_init, client_step and client_final for the clients of a modality."""
    optimizer = fedjax.optimizers.sgd(work.rate)

    def init(shared: dict, _: Any) -> dict:
        variables = shared["variables"]
        trained = {n: v for n, v in variables.items() if not workloads.is_moment(n)}
        moments = {n: v for n, v in variables.items() if workloads.is_moment(n)}
        keys = shared["keys"]  # also a client's, for client_step sees no shared input
        size = (work.classes, workloads.PROJECTION if keys is not None else 0)
        relay = (jnp.zeros(size), jnp.zeros(work.classes))
        return {"trained": trained, "opt": optimizer.init(trained), "moments": moments, "relay": relay, "keys": keys}

    def step(state: dict, batch: dict) -> dict:
        def objective(trained: Variables) -> tuple[jax.Array, tuple]:
            variables = {**trained, **state["moments"]}
            logits, z, moments = fedjax_models.forward(work, modality, variables, batch["x"])
            return fedjax_models.loss(work, logits, z, batch["y"], state["keys"]), (z, moments)

        gradients, (z, moments) = jax.grad(objective, has_aux=True)(state["trained"])
        opt, trained = optimizer.apply(gradients, state["opt"], state["trained"])
        y = batch["y"].astype(z.dtype)
        relay = (state["relay"][0] + y.T @ z, state["relay"][1] + y.sum(axis=0))
        return {**state, "trained": trained, "opt": opt, "moments": moments, "relay": relay}

    def final(shared: dict, state: dict) -> dict:
        before, moments = shared["variables"], state["moments"]
        sent = {n: v - before[n] for n, v in state["trained"].items()}
        for n, v in moments.items():
            shift = moments[_mean_of(n)] - before[_mean_of(n)]
            sent[n] = shift if n.endswith("/mean") else v + _outer(shift, v)
        return {"sent": sent, "relay": state["relay"]}

    return init, step, final


class Federation:
    """Hold the server's variables, and run rounds."""

    def __init__(self, task: protocol.Task):
        self.work = work = task.work
        backend = "pmap" if task.variant == "pmap" else "jit"
        self.variables = {n: jnp.asarray(v) for n, v in workloads.read(task.folder, "initial").items()}
        self.keys = {m: jnp.asarray(k) for m, k in workloads.read(task.folder, "prototypes").items()}
        arrays, order = workloads.read(task.folder, "data"), workloads.positions(task.folder)
        self.clients: dict[str, list] = {}
        self.each: dict[str, Any] = {}
        for m in work.modalities:
            numbers = work.clients_of(m)
            self.clients[m] = [
                (c, Batches(arrays[f"images/{m}"][i], arrays["labels"][c], order[c]), None)
                for i, c in enumerate(numbers)
            ]
            with fedjax.for_each_client_backend(backend):
                self.each[m] = fedjax.for_each_client(*client_functions(work, m))
        self.server = jax.jit(self._server, donate_argnums=0)
        self.add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    def run(self) -> None:
        """Run a round."""
        sums = {}
        for m in self.work.modalities:
            held = {n: v for n, v in self.variables.items() if workloads.owner(self.work, n) in ("", m)}
            keys = next((k for other, k in self.keys.items() if other != m), None)
            total = None
            for _, sent in self.each[m]({"variables": held, "keys": keys}, self.clients[m]):
                total = sent if total is None else self.add(total, sent)
            sums[m] = total
        self.variables, self.keys = self.server(self.variables, self.keys, sums)
        jax.block_until_ready(self.variables)

    def _server(self, variables: Variables, keys: Variables, sums: dict) -> tuple[Variables, Variables]:
        work, mean, out = self.work, {}, {}
        for n in variables:
            holders = [m for m in work.modalities if n in sums[m]["sent"]]
            total = sum(sums[m]["sent"][n] for m in holders)
            mean[n] = total / sum(len(work.clients_of(m)) for m in holders)
        for n, v in variables.items():
            if workloads.is_moment(n) and not n.endswith("/mean"):
                out[n] = mean[n] - _outer(mean[_mean_of(n)], v)
            else:
                out[n] = v + mean[n]
        relayed = {}
        for m, k in keys.items():
            total, count = sums[m]["relay"]
            length = jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-6)
            relayed[m] = jnp.where(count[:, None] > 0, total / length, k)
        return out, relayed

    def arrays(self) -> workloads.Arrays:
        """Return the variables and the relay's keys by the engine's names."""
        return {
            n: np.array(v) for n, v in {**self.variables, **{f"relay/{m}": k for m, k in self.keys.items()}}.items()
        }


class Batches:
    """Draw a client's batches, anew in every round, as FedJAX's own datasets do on the host."""

    def __init__(self, x: np.ndarray, y: np.ndarray, order: np.ndarray):
        self.x, self.y, self.order = x, y, order

    def __iter__(self):
        for rows in self.order:
            yield {"x": self.x[rows], "y": self.y[rows]}


def main(task: protocol.Task) -> tuple[workloads.Arrays, Any, dict]:
    """Return FedJAX's first update, and its round."""
    if task.variant == "pmap":
        jax.config.update("jax_num_cpu_devices", task.cores)
    federation = Federation(task)
    federation.run()
    return federation.arrays(), federation.run, {"version": f"fedjax 0.0.17, jax {jax.__version__}"}


if __name__ == "__main__":
    protocol.serve(main)
