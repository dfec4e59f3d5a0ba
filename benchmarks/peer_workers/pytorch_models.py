"""The workloads' models in PyTorch, as fast as we know how; three peers share them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import workloads
from torch import Tensor, nn
from torch.nn import functional


class Whitening(nn.Module):
    """Whiten groups of channels by the batch's moments: the inverse Cholesky factor of the shrunk covariance."""

    def __init__(self, channels: int):
        super().__init__()
        groups, size = channels // workloads.GROUP, workloads.GROUP
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_cov", torch.eye(size).repeat(groups, 1, 1))
        self.register_buffer("identity", torch.eye(size), persistent=False)
        self.register_buffer("blocks", torch.eye(groups), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the whitened ``[batch, channels, height, width]``."""
        batch, channels, height, width = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(-1, channels)  # a view where memory is channels_last
        groups, size = channels // workloads.GROUP, workloads.GROUP
        mean = flat.mean(dim=0)
        full = flat.T @ flat / flat.shape[0] - torch.outer(mean, mean)
        covariance = full.reshape(groups, size, groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        with torch.no_grad():
            self.running_mean.lerp_(mean, workloads.MOMENTUM)
            self.running_cov.lerp_(covariance, workloads.MOMENTUM)
        shrunk = (1 - workloads.SHRINKAGE) * covariance + workloads.SHRINKAGE * self.identity
        factor = torch.linalg.cholesky_ex(shrunk).L
        inverse = torch.linalg.solve_triangular(factor, self.identity.expand_as(factor), upper=False)
        dense = (self.blocks[:, None, :, None] * inverse[:, :, None, :]).reshape(channels, channels)
        matrix = dense * self.weight[:, None]
        y = torch.addmm(self.bias - matrix @ mean, flat, matrix.T)
        return y.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _norm(channels: int, whitened: bool) -> nn.Module:
    if whitened:
        return Whitening(channels)
    norm = nn.BatchNorm2d(channels, momentum=workloads.MOMENTUM)
    norm.num_batches_tracked = None  # one operation less a step
    return norm


class Block(nn.Module):
    """Add to the input what two 3x3 convolutions make of it."""

    def __init__(self, inputs: int, outputs: int, stride: int, whitened: bool):
        super().__init__()
        conv = lambda size, s, kernel: nn.Conv2d(size, outputs, kernel, s, padding=0, bias=False)
        self.convs = nn.ModuleList([conv(inputs, stride, 3), conv(outputs, 1, 3)])
        self.norms = nn.ModuleList([_norm(outputs, whitened), _norm(outputs, whitened)])
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv(inputs, stride, 1) if changes else None
        self.shortcut_norm = _norm(outputs, whitened) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = functional.relu_(self.norms[0](_same(self.convs[0], x)))
        y = self.norms[1](_same(self.convs[1], y))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(_same(self.shortcut, x))
        return functional.relu_(y + x)


def _same(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the convolution with SAME padding as the engine's: on an even side, stride 2 pads at the end alone."""
    pads = []
    for side, kernel, stride in zip(x.shape[2:], conv.kernel_size, conv.stride):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    if all(low == high for low, high in pads):
        return functional.conv2d(x, conv.weight, conv.bias, conv.stride, tuple(low for low, _ in pads))
    return functional.conv2d(functional.pad(x, (*pads[1], *pads[0])), conv.weight, conv.bias, conv.stride)


class ResNet(nn.Module):
    """ResNet-18 for small patches: a 3x3 stem, no pooling before the last mean; whitened in stem and first stage."""

    def __init__(self, channels: int, whitened: bool = True):
        super().__init__()
        width = workloads.STAGES[0][1]
        self.stem = nn.Conv2d(channels, width, 3, bias=False)
        self.stem_norm = _norm(width, whitened)
        blocks, inputs = [], width
        for stage, (count, outputs, stride) in enumerate(workloads.STAGES, start=1):
            for i in range(count):
                blocks.append(Block(inputs, outputs, stride if i == 0 else 1, whitened and stage == 1))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the stages, the finest first."""
        x = functional.relu_(self.stem_norm(_same(self.stem, x)))
        found, ends = [], np.cumsum([count for count, _, _ in workloads.STAGES])
        for i, block in enumerate(self.blocks, start=1):
            x = block(x)
            if i in ends:
                found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[batch, 512]``."""
        return self.maps(x)[-1].mean(dim=(2, 3))


class _Step(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = _norm(outputs, False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu_(self.norm(self.conv(x)))


class UNet(nn.Module):
    """Bring the maps of the stages together, from the coarsest to the finest."""

    def __init__(self):
        super().__init__()
        widths = [outputs for _, outputs, _ in workloads.STAGES]
        pairs = list(zip(widths[:0:-1], widths[-2::-1]))
        self.first = nn.ModuleList([_Step(coarser + finer, finer) for coarser, finer in pairs])
        self.second = nn.ModuleList([_Step(finer, finer) for _, finer in pairs])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return a map as fine as the finest."""
        x = maps[-1]
        for skip, first, second in zip(maps[-2::-1], self.first, self.second):
            x = second(first(torch.cat([functional.interpolate(x, scale_factor=2), skip], dim=1)))
        return x


class Segmentation(nn.Module):
    """The multi-modal model of labels by pixel with what some modalities need; one is seen at a time."""

    def __init__(self, work: workloads.Workload, held: Sequence[str]):
        super().__init__()
        self.encoders = nn.ModuleDict({m: ResNet(work.shapes[m][-1], False) for m in held})
        self.decoders = nn.ModuleDict({m: UNet() for m in held})
        self.head = nn.Linear(workloads.STAGES[0][1], work.classes)
        self.first = held[0]

    def forward(self, x: Tensor, modality: str = "") -> tuple[Tensor, None]:
        """Return logits ``[batch, classes, height, width]``, and no projection."""
        modality = modality or self.first
        x = self.decoders[modality](self.encoders[modality].maps(x))
        return functional.conv2d(x, self.head.weight[:, :, None, None], self.head.bias), None


class MLP(nn.Module):
    """Two dense layers."""

    def __init__(self, inputs: int):
        super().__init__()
        self.first = nn.Linear(inputs, workloads.HIDDEN)
        self.second = nn.Linear(workloads.HIDDEN, workloads.HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[batch, hidden]``."""
        return functional.relu(self.second(functional.relu(self.first(x.flatten(1)))))


class Projector(nn.Module):
    """Map features to the unit sphere."""

    def __init__(self, features: int):
        super().__init__()
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, workloads.PROJECTION)

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors ``[batch, projection]``."""
        z = self.out(functional.relu(self.hidden(x)))
        return z * (z * z).sum(dim=-1, keepdim=True).clamp_min(1e-12).rsqrt()


class CNN(nn.Module):
    """The two-convolution network of McMahan et al. (2017)."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        self.conv1 = nn.Conv2d(*shapes["conv1/kernel"][2:], 5, padding=2)
        self.conv2 = nn.Conv2d(*shapes["conv2/kernel"][2:], 5, padding=2)
        self.dense = nn.Linear(*shapes["dense/kernel"])
        self.head = nn.Linear(*shapes["head/kernel"])

    def forward(self, x: Tensor, modality: str = "") -> tuple[Tensor, None]:
        """Return logits, and no projection."""
        for conv in (self.conv1, self.conv2):
            x = functional.max_pool2d(functional.relu(conv(x)), 2)
        return self.head(functional.relu(self.dense(x.flatten(1)))), None


class MultiModal(nn.Module):
    """The multi-modal model with the encoders of some modalities; a client holds one, and one is seen at a time."""

    def __init__(self, work: workloads.Workload, held: Sequence[str]):
        super().__init__()
        mlp = work.model == "mlp"
        encoder = lambda shape: MLP(int(np.prod(shape))) if mlp else ResNet(shape[-1])
        features = workloads.HIDDEN if mlp else workloads.STAGES[-1][1]
        self.encoders = nn.ModuleDict({m: encoder(work.shapes[m]) for m in held})
        self.projectors = nn.ModuleDict({} if mlp else {m: Projector(features) for m in held})
        self.head = nn.Linear(features, work.classes)
        self.first = held[0]

    def forward(self, x: Tensor, modality: str = "") -> tuple[Tensor, Tensor | None]:
        """Return logits, and MIM's projections if any, of images of a modality (of the first where none is named)."""
        modality = modality or self.first
        features = self.encoders[modality](x)
        z = self.projectors[modality](features) if self.projectors else None
        return self.head(features), z


def make(work: workloads.Workload, held: Sequence[str], channels_last: bool) -> nn.Module:
    """Return the model of the holder of some modalities."""
    made = {"cnn": lambda: CNN(workloads.variable_shapes(work)), "unet": lambda: Segmentation(work, held)}
    model = made.get(work.model, lambda: MultiModal(work, held))()
    return model.to(memory_format=torch.channels_last) if channels_last else model
