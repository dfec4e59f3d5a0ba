"""Local training and averaging in PyTorch: what the peers on PyTorch share.

Variables keep the engine's paths with dots, and PyTorch's own leaf names and layouts: ``encoders.s1.stem.weight``.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
import workloads
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "cov": "running_cov"}


def _torch_name(name: str) -> str:
    path, _, leaf = name.rpartition("/")
    return f"{path}/{_LEAVES.get(leaf, leaf)}".replace("/", ".")


def to_torch(arrays: workloads.Arrays, work: workloads.Workload, channels_last: bool) -> State:
    """Return the engine's variables as PyTorch's, by PyTorch's names."""
    out = {}
    for name in workloads.variable_shapes(work):
        value = torch.from_numpy(np.array(arrays[name]))
        if name.endswith("kernel"):
            if name == "dense/kernel":  # its inputs are pixels x channels there, channels x pixels here
                value = value.reshape(-1, workloads.FILTERS[1], workloads.HIDDEN).transpose(0, 1).reshape(value.shape)
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
        layout = torch.channels_last if value.ndim == 4 and channels_last else torch.contiguous_format
        out[_torch_name(name)] = value.contiguous(memory_format=layout)
    return out


def to_engine(state: State, work: workloads.Workload) -> workloads.Arrays:
    """Return PyTorch's variables as the engine's; the inverse of :func:`to_torch`."""
    out = {}
    for name, shape in workloads.variable_shapes(work).items():
        value = state[_torch_name(name)].detach()
        if name.endswith("kernel"):
            value = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T
            if name == "dense/kernel":
                value = value.reshape(workloads.FILTERS[1], -1, workloads.HIDDEN).transpose(0, 1).reshape(shape)
        out[name] = value.numpy().copy()
    return out


def loss(work: workloads.Workload, output: tuple[Tensor, Tensor | None], labels: Tensor, keys: Tensor | None) -> Tensor:
    """Return the local loss: the task's, and MIM's against the prototypes of the other modality.

    Args:
      work: the workload.
      output: logits and projections.
      labels: ``[batch]`` class numbers, by pixel ``[batch, height, width]``, or ``[batch, classes]`` float32 of 0/1 for
        ``multilabel``.
      keys: ``[classes, d]`` prototypes of the other modality, None without MIM.
    """
    logits, z = output
    if work.task != "multilabel":
        return functional.cross_entropy(logits, labels, ignore_index=workloads.IGNORED)
    task = functional.binary_cross_entropy_with_logits(logits, labels)
    if z is None or keys is None:
        return task
    similarity = z @ keys.T / workloads.TEMPERATURE
    counted = labels.any(dim=1)
    positives = similarity.masked_fill(labels == 0, -1e30).logsumexp(dim=1)
    terms = torch.where(counted, similarity.logsumexp(dim=1) - positives, 0.0)
    return task + workloads.MIM_WEIGHT * terms.sum() / counted.sum().clamp_min(1)


class Samples:
    """Hold the clients' samples, and the order in which each draws its own."""

    def __init__(self, work: workloads.Workload, folder: pathlib.Path, channels_last: bool):
        arrays = workloads.read(folder, "data")
        labels = torch.from_numpy(arrays["labels"])
        known = {"multilabel": labels.float, "pixel": labels.long}
        self.labels = known.get(work.task, lambda: labels.argmax(dim=-1))()
        self.order = torch.from_numpy(workloads.positions(folder)).long()
        self.nhwc = channels_last and work.model != "mlp"
        self.images: dict[int, Tensor] = {}
        for m in work.modalities:
            x = torch.from_numpy(arrays[f"images/{m}"])
            if work.model != "mlp" and not channels_last:
                x = x.permute(0, 1, 4, 2, 3).contiguous()
            self.images |= zip(work.clients_of(m), x)

    def batch(self, client: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the images ``[batch, ...]``, NCHW in name where they are images, and the labels of a local step."""
        rows = self.order[client, step]
        x = self.images[client][rows]
        return (x.permute(0, 3, 1, 2) if self.nhwc else x), self.labels[client][rows]


class Server:
    """Hold what the server holds between rounds, and average what its clients send.

    Attributes:
      state: parameters and running moments by name.
      keys: MIM's prototypes by modality, empty without MIM.
    """

    def __init__(self, work: workloads.Workload, folder: pathlib.Path, channels_last: bool):
        self.work = work
        self.state = to_torch(workloads.read(folder, "initial"), work, channels_last)
        self.keys = {m: torch.from_numpy(k) for m, k in workloads.read(folder, "prototypes").items()}

    def empty_sums(self) -> State:
        """Return zeros to add what clients send to."""
        return {n: torch.zeros_like(v) for n, v in self.state.items()} | self.empty_relay()

    def empty_relay(self) -> State:
        """Return zeros to add MIM's projections to, and their numbers; empty without MIM."""
        sums = {f"relay/{m}": torch.zeros_like(k) for m, k in self.keys.items()}
        return sums | {f"count/{m}": torch.zeros(len(k)) for m, k in self.keys.items()}

    def other_keys(self, modality: str) -> Tensor | None:
        """Return the prototypes of the other modality, None without MIM."""
        return next((k for m, k in self.keys.items() if m != modality), None)

    @torch.no_grad()
    def update(self, sums: State) -> None:
        """Take the mean of what all clients of the round sent; all have the same number of samples."""
        holders = {m: len(self.work.clients_of(m)) for m in self.work.modalities}
        centres, moments = {}, {}
        for name, value in self.state.items():
            holder = workloads.owner(self.work, name.replace(".", "/"))
            count = holders[holder] if holder else self.work.clients
            mean = sums[name] / count
            if "running" in name:
                centres[name], moments[name] = value, mean
            else:
                value += mean
        for name, value in pooled(centres, moments).items():
            self.state[name].copy_(value)
        for m, keys in self.keys.items():
            total, filled = sums[f"relay/{m}"], sums[f"count/{m}"] > 0
            keys.copy_(torch.where(filled[:, None], functional.normalize(total, dim=-1), keys))

    def variables(self) -> workloads.Arrays:
        """Return all of it by the engine's names."""
        return to_engine(self.state, self.work) | {f"relay/{m}": k.numpy().copy() for m, k in self.keys.items()}


class Trainer:
    """Train clients of one modality, one after another, with one model whose weights are overwritten.

    Args:
      work: the workload.
      model: of the clients.
      forward: what computes its output from images; None for the model itself, else a compiled form of it.
    """

    def __init__(self, work: workloads.Workload, model: nn.Module, forward=None):
        self.work, self.model, self.forward = work, model.train(), model if forward is None else forward
        self.parameters = dict(model.named_parameters())
        self.moments = {n: b for n, b in model.named_buffers() if "running" in n}

    @torch.no_grad()
    def receive(self, state: State) -> None:
        """Take the server's variables."""
        own = self.parameters | self.moments
        torch._foreach_copy_(list(own.values()), [state[n] for n in own])

    def step(self, x: Tensor, y: Tensor, keys: Tensor | None) -> Tensor | None:
        """Do one step of plain SGD; return MIM's projections."""
        output = self.forward(x)
        parameters = list(self.parameters.values())
        gradients = torch.autograd.grad(loss(self.work, output, y, keys), parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-self.work.rate)
        return None if output[1] is None else output[1].detach()

    def train(self, samples: Samples, client: int, server: Server, sums: State) -> None:
        """Train a client on its samples and add what it sends to ``sums``."""
        self.fit(samples, client, server, sums)
        self.add(server.state, sums)

    def fit(self, samples: Samples, client: int, server: Server, sums: State) -> None:
        """Train a client on its samples, and add MIM's projections, if any, to ``sums``."""
        self.receive(server.state)
        m = self.work.holder(client)
        keys = server.other_keys(m)
        for step in range(self.work.steps):
            x, y = samples.batch(client, step)
            z = self.step(x, y, keys)
            if z is not None:
                sums[f"relay/{m}"].addmm_(y.T, z)
                sums[f"count/{m}"] += y.sum(dim=0)

    @torch.no_grad()
    def add(self, state: State, sums: State) -> None:
        """Add the client's change of parameters, and its moments about the server's, to ``sums``."""
        change = torch._foreach_sub(list(self.parameters.values()), [state[n] for n in self.parameters])
        torch._foreach_add_([sums[n] for n in self.parameters], change)
        for name, value in about(state, self.moments).items():
            sums[name] += value


def about(centre: State, local: State) -> State:
    """Return a client's running moments about the means in ``centre``, which average exactly over clients."""
    out = {}
    for name, value in local.items():
        path, _, leaf = name.rpartition(".")
        mean = f"{path}.running_mean"
        shift = local[mean] - centre[mean]
        out[name] = shift if leaf == "running_mean" else value + _outer(shift, value)
    return out


def pooled(centre: State, moments: State) -> State:
    """Return running moments from averaged ones about ``centre``; the inverse of :func:`about`."""
    out = {}
    for name, value in moments.items():
        path, _, leaf = name.rpartition(".")
        mean = f"{path}.running_mean"
        out[name] = value + centre[mean] if leaf == "running_mean" else value - _outer(moments[mean], value)
    return out


def _outer(shift: Tensor, like: Tensor) -> Tensor:
    if like.ndim == 1:
        return shift * shift
    groups = shift.reshape(like.shape[0], -1)
    return groups[:, :, None] * groups[:, None, :]
