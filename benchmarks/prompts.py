"""Time prompt learning on a frozen CLIP: rounds of the engine against a PyTorch loop over the same clients and batches.

    python benchmarks/prompts.py --python TORCH_ENV/bin/python [--quick] [--chunks 1,4] [--output FILE.jsonl]

1,000 clients hold cached image features; each round draws some of them for 2 local steps of 32 images and 31 classes,
through a text tower of ViT-B/32's size with random weights. The names have 1 to 4 tokens, as those of scene classes
have, and texts are cut after the longest. Only the drawn clients are timed: their steps cost what any others' do.

TORCH_ENV has torch==2.13.0 and numpy; without --python only the engine is timed. Both must end with the same prompts.
"""

from __future__ import annotations

import pathlib
import subprocess
import tempfile
import time
from typing import Any

import jax
import numpy as np
from common import emit, host, parser, use_devices
from flax import nnx

from mmfl_jax import Simulation, Study, methods
from mmfl_jax.archives.base import Archive, ModalitySpec
from mmfl_jax.engine.batches import draw_batch
from mmfl_jax.engine.round import client_seeds
from mmfl_jax.federation import Federation
from mmfl_jax.methods.method import Method, Recipe
from mmfl_jax.models import clip
from mmfl_jax.models.clip.prompts import PRIVATE, PromptLearner
from mmfl_jax.objectives.prompts import CMFAC, PACL

CLIENTS, SAMPLES, CLASSES, BATCH, STEPS, TOKENS = 1000, 64, 31, 32, 2, 4
RATE, PACL_WEIGHT, CMFAC_WEIGHT = 0.05, 0.1, 0.1
NAME_TOKENS = (1, 2, 2, 3, 4)
WORKER = pathlib.Path(__file__).with_name("prompts_torch.py")
PROMPTS = ("shared", "private")
# Of the largest change of a prompt: float32 through twelve layers and back, in two orders of summation.
TOLERANCE = 1e-3


class FeatureVectors(Archive):
    """Hold random image features that lean towards their class."""

    def __init__(self, samples: int, length: int):
        rng = np.random.default_rng(0)
        self.name, self.task, self.notes, self.splits, self.attributes = "features", "multiclass", {}, None, {}
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        self.labels = rng.integers(0, CLASSES, samples).astype(np.int32)
        centres = rng.standard_normal((CLASSES, length), np.float32)
        self.features = centres[self.labels] + rng.standard_normal((samples, length), np.float32)
        self.modalities = {"rgb": ModalitySpec((length,), tuple(map(str, range(length))))}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Return the samples' features."""
        return self.features[self.checked(modality, indices)]


def federation(length: int) -> Federation:
    """Return the clients, which share 4,096 samples, and a test set."""
    archive = FeatureVectors(4096 + 32, length)
    starts = [i * SAMPLES % 4096 for i in range(CLIENTS)]
    parts = [(f"client {i}", ("rgb",), np.arange(start, start + SAMPLES)) for i, start in enumerate(starts)]
    return Federation.of(archive, parts, np.arange(4096, 4096 + 32))


def names(vocabulary: int) -> clip.Tokens:
    """Return class names of random tokens, between start and end."""
    rng = np.random.default_rng(1)
    lengths = np.array([NAME_TOKENS[i % len(NAME_TOKENS)] for i in range(CLASSES)])
    ids = np.zeros((CLASSES, lengths.max() + 2), np.int32)
    for row, length in zip(ids, lengths):
        row[: length + 2] = [vocabulary - 2, *rng.integers(0, vocabulary - 2, length), vocabulary - 1]
    return clip.Tokens(ids, (lengths + 1).astype(np.int32))


def simulation(model: clip.CLIP, chunk: int, cohort: int) -> Simulation:
    """Return FedRSCLIP on the federation, with this tower and names of these lengths."""
    tokens = names(model.config.vocabulary)

    def recipe(study: Study, federation: Federation) -> Recipe:
        make = lambda held: PromptLearner(model, tokens, PROMPTS, TOKENS, "mean", nnx.Rngs(0))
        return Recipe(make, None, (PACL(PACL_WEIGHT), CMFAC(CMFAC_WEIGHT)), (PRIVATE,))

    method = Method("timed-fedrsclip", "FedRSCLIP on random weights", "", base=recipe, on_features=True)
    methods.register(method, replace=True)
    study = Study.of(
        method="timed-fedrsclip",
        clip="random",
        batch_size=BATCH,
        local_steps=STEPS,
        participation=str(cohort),
        devices=1,  # clients stand in the order of the federation
        chunk_size=chunk,
        client_optimizer="sgd",
        client_learning_rate=RATE,
    )
    return Simulation(study, federation(model.config.projection))


def inputs(sim: Simulation, model: clip.CLIP, repeats: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the first round's clients, and what the loop needs to train them: the engine's own weights and batches."""
    (members,) = sim.cohort(0).members
    data = sim.execution.example(0)
    seeds = client_seeds(jax.random.fold_in(jax.random.key(sim.study.training.seed), 0), data.ids[members])
    draw = jax.jit(jax.vmap(lambda c, seed, step: draw_batch(sim.program, data, c, seed, step), (None, None, 0)))
    batches = [draw(client, seed, np.arange(STEPS)) for client, seed in zip(members, seeds)]
    given = {name: np.asarray(value) for name, value in {**sim.state.frozen, **sim.state.params}.items()}
    tokens = names(model.config.vocabulary)
    given |= {"names": np.asarray(model.text.embed(tokens.ids)), "ends": tokens.end_positions}
    given["images"] = np.stack([np.asarray(batch.images["rgb"]) for batch in batches])
    given["labels"] = np.stack([np.asarray(batch.labels).argmax(axis=-1) for batch in batches])
    weights = {"pacl": PACL_WEIGHT, "cmfac": CMFAC_WEIGHT}
    options = {**weights, "rate": RATE, "heads": model.config.text.heads, "repeats": repeats}
    return members, {**given, **{name: np.float32(value) for name, value in options.items()}}


def time_engine(sim: Simulation, repeats: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return seconds of each round after the first one, and the prompts after the first."""
    sim.run_round()
    prompts = {name: np.array(sim.state.params[f"prompts/{name}/tokens"]) for name in PROMPTS[:1]}
    rows = np.array(sim.state.clients[0]["variables"]["prompts/private/tokens"])
    prompts["private"] = rows[sim.placement.groups[0].positions]
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        sim.run_round()
        seconds.append(time.perf_counter() - begin)
    return seconds, prompts


def difference(given: dict, members: np.ndarray, engine: dict, torch: dict) -> float:
    """Return the largest difference of trained prompts, as a share of the largest change of that prompt."""
    shares = []
    for name, ours, theirs in (
        ("shared", engine["shared"], torch["shared"].mean(axis=0)),
        ("private", engine["private"][members], torch["private"]),
    ):
        change = np.abs(theirs - given[f"prompts/{name}/tokens"]).max()
        shares.append(float(np.abs(ours - theirs).max() / change))
    return max(shares)


def main() -> None:
    """Measure, print JSON rows, and append them to a file."""
    made = parser(__doc__)
    made.add_argument("--python", default=None, help="Python of an environment with torch==2.13.0")
    made.add_argument("--chunks", default="1,4", help="clients side by side, comma-separated")
    made.add_argument("--cohort", type=int, default=0, help="clients of a round; 0: 4, or 2 with --quick")
    args = made.parse_args()
    use_devices(args.devices)
    config = clip.TINY if args.quick else clip.VIT_B_32
    cohort, repeats = args.cohort or (2 if args.quick else 4), 2 if args.quick else 3
    model = clip.CLIP(config, rngs=nnx.Rngs(0))
    common = {
        "benchmark": "prompts",
        "tower": "tiny" if args.quick else "ViT-B/32",
        "clients": CLIENTS,
        "clients_timed": cohort,
        "local_steps": STEPS,
        "batch_size": BATCH,
        "classes": CLASSES,
        **host(),
    }
    rate = lambda seconds: {"seconds": round(min(seconds), 4), "client_steps_per_second": cohort * STEPS / min(seconds)}
    given, prompts, best = None, {}, 0.0
    for chunk in map(int, args.chunks.split(",")):
        sim = simulation(model, min(chunk, cohort), cohort)
        if given is None:
            members, given = inputs(sim, model, repeats)
        seconds, prompts = time_engine(sim, repeats)
        row = {
            "side": "mmfl_jax",
            "chunk": chunk,
            "compile_seconds": round(sim.compile_seconds or 0, 1),
            **rate(seconds),
        }
        best = max(best, row["client_steps_per_second"])
        emit({**common, **row}, args.output)
    if args.python is None or given is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(pathlib.Path(folder) / name) for name in ("input.npz", "output.npz")]
        np.savez(paths[0], **given)
        subprocess.run([args.python, str(WORKER), *paths], check=True)
        with np.load(paths[1]) as file:
            torch = dict(file)
    found = difference(given, members, prompts, torch)
    row = {
        "side": "PyTorch loop",
        "torch": str(torch["torch"]),
        "threads": int(torch["threads"]),
        **rate(torch["seconds"]),
    }
    row["engine_over_loop"] = round(best / row["client_steps_per_second"], 2)
    emit({**common, **row, "largest_difference": found}, args.output)
    if found > TOLERANCE:
        raise SystemExit(f"the two sides differ by {found:.1e} of the largest change; at most {TOLERANCE:.0e} is right")


if __name__ == "__main__":
    main()
