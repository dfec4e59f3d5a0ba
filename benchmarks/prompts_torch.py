"""Train prompts client by client in PyTorch, on what ``benchmarks/prompts.py`` writes and in the environment it names.

    python benchmarks/prompts_torch.py INPUT.npz OUTPUT.npz

The frozen tower is shared, prompts alone require gradients, and all classes of both prompts are one batch of texts cut
after the longest name. INPUT holds the tower by the engine's names, and every client's batches.
"""

import os
import sys
import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy, layer_norm, linear, normalize, scaled_dot_product_attention


class Tower:
    """Encode texts by frozen weights, stored as the engine does: blocks stacked, kernels ``[inputs, outputs]``."""

    def __init__(self, weights: dict[str, torch.Tensor], heads: int):
        self.weights, self.heads = weights, heads
        stacked = {n.split("blocks/")[1]: w for n, w in weights.items() if "/blocks/" in n}
        layers = len(stacked["qkv/bias"])
        # Linear layers of PyTorch hold kernels [outputs, inputs].
        self.blocks = [
            {n: w[i].T.contiguous() if n.endswith("kernel") else w[i] for n, w in stacked.items()}
            for i in range(layers)
        ]

    def __call__(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Return features ``[n, projection]`` of embeddings ``[n, t, width]`` that end at ``ends``."""
        w = self.weights
        x = x + w["text/position_embedding"][: x.shape[1]]
        for block in self.blocks:
            x = self._block(block, x)
        x = x[torch.arange(len(x)), ends]
        x = layer_norm(x, x.shape[-1:], w["text/final_norm/scale"], w["text/final_norm/bias"])
        return x @ w["text/projection/kernel"]

    def _block(self, w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        norm = lambda name, y: layer_norm(y, y.shape[-1:], w[f"{name}/scale"], w[f"{name}/bias"])
        dense = lambda name, y: linear(y, w[f"{name}/kernel"], w[f"{name}/bias"])
        q, k, v = dense("qkv", norm("attention_norm", x)).chunk(3, dim=-1)
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        attended = scaled_dot_product_attention(split(q), split(k), split(v), is_causal=True)
        x = x + dense("out", attended.transpose(1, 2).flatten(-2))
        hidden = dense("up", norm("mlp_norm", x))
        return x + dense("down", hidden * torch.sigmoid(1.702 * hidden))


def train(tower: Tower, given: dict[str, torch.Tensor], client: int) -> list[torch.Tensor]:
    """Return a client's shared and private prompt after its local steps of plain SGD."""
    prompts = [given[f"prompts/{name}/tokens"].clone().requires_grad_() for name in ("shared", "private")]
    optimizer = torch.optim.SGD(prompts, lr=float(given["rate"]))
    names, ends = given["names"], given["ends"].repeat(2) + len(prompts[0])
    count = len(names)
    for images, labels in zip(given["images"][client], given["labels"][client]):
        stands = torch.stack(prompts).repeat_interleave(count, dim=0)
        texts = torch.cat([names[:, :1].repeat(2, 1, 1), stands, names[:, 1:].repeat(2, 1, 1)], dim=1)
        shared, private = normalize(tower(texts, ends), dim=-1).split(count)
        cosines = normalize(images, dim=-1) @ ((shared + private) / 2).T
        loss = cross_entropy(given["logit_scale"].exp() * cosines, labels)
        loss = loss + given["pacl"] * (1 - (shared * private).sum(dim=-1).mean())
        loss = loss + given["cmfac"] * (1 - cosines[torch.arange(len(labels)), labels].mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [prompt.detach() for prompt in prompts]


def main() -> None:
    """Train all clients, write their prompts and the seconds of each repetition."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with np.load(sys.argv[1]) as file:
        given = {name: torch.from_numpy(np.array(file[name])) for name in file.files}
    given["labels"], given["ends"] = given["labels"].long(), given["ends"].long()
    tower = Tower({n: w for n, w in given.items() if n.startswith("text/")}, int(given["heads"]))
    train(tower, given, 0)
    seconds = []
    for _ in range(int(given["repeats"])):
        begin = time.perf_counter()
        trained = [train(tower, given, client) for client in range(len(given["images"]))]
        seconds.append(time.perf_counter() - begin)
    shared, private = (np.stack([prompts[i].numpy() for prompts in trained]) for i in range(2))
    np.savez(
        sys.argv[2],
        shared=shared,
        private=private,
        seconds=seconds,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
