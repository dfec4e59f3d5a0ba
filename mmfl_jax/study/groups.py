"""The groups of a study's options. The name of an option is the same everywhere: flag, study file, sweep and here."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import AfterValidator

from mmfl_jax.archives.options import DataOptions
from mmfl_jax.federation.assignment import read_assignment
from mmfl_jax.federation.participation import read_participation
from mmfl_jax.federation.partition import read_partition
from mmfl_jax.models.options import ModelOptions
from mmfl_jax.objectives.options import Calibration, MIMOptions
from mmfl_jax.options import Count, Positive, Rate, Share, ShareAboveZero, ShareBelowOne, Weight, options
from mmfl_jax.tasks.options import TaskOptions

__all__ = [
    "AlgorithmOptions",
    "DataOptions",
    "ExecutionOptions",
    "FederationOptions",
    "MIMOptions",
    "MethodOptions",
    "ModelOptions",
    "PromptOptions",
    "TaskOptions",
    "TrainingOptions",
]

Schedule = Literal["constant", "cosine"]


def _partition(reference: str) -> str:
    read_partition(reference)
    return reference


def _assignment(reference: str) -> str:
    read_assignment(reference)
    return reference


def _participation(reference: str) -> str:
    read_participation(reference)
    return reference


@options
class FederationOptions:
    """Federation: who has which samples, and who takes part."""

    partition: Annotated[str, AfterValidator(_partition)] = "ds2"
    """How samples are dealt: iid (ds1), dirichlet:ALPHA, by:ATTRIBUTE[+ATTRIBUTE], such as by:country (ds2) or
    by:country+season (ds3)."""
    clients: Count = 0
    """Number of clients (of owners, with split); 0 for the partition's own: a client a value, or 10."""
    modality_assignment: Annotated[str, AfterValidator(_assignment)] = "single"
    """Modalities of a client: single, all, mixed, split (each part becomes a client a modality), or rare:MODALITY (one
    client of ten holds it)."""
    test_split: str = "auto"
    """Test samples: official, by:ATTRIBUTE[:FOLD/FOLDS], a share such as 0.2, or auto (official, else 0.2)."""
    validation_share: ShareBelowOne = 0.0
    """Share of each client's samples held out for validation; 0 for an archive's official validation samples."""
    missing_modalities: ShareBelowOne = 0.0
    """Chance that a client with several modalities lacks each of them, never the last."""
    owner_shift: Weight = 0.0
    """How much owners' sensors differ in gain, offset and mixing of bands, in deviations; drawn by the data seed."""
    labelled_share: ShareAboveZero = 1.0
    """Share of each client's training samples that have labels; MIM learns on the others too."""
    label_noise: ShareBelowOne = 0.0
    """Share of training labels that are wrong."""
    attack: Literal["none", "nan", "large", "sign_flip", "label_flip"] = "none"
    """What hostile clients send: nan, large (1e30 times), sign_flip, or label_flip (trained on wrong labels)."""
    malicious: ShareBelowOne = 0.2
    """Share of clients that are hostile, where there is an attack."""
    participation: Annotated[str, AfterValidator(_participation)] = "all"
    """Clients of a round: all, a share such as 0.1 (each by chance), a number such as 100, per-group:N, or
    stratified:STRATA:N, as many from each of some strata of like work (a multiple of the devices)."""
    servers: str = ""
    """Attribute of samples, such as country, that says which server of a hierarchy a client is under."""
    dropout: ShareBelowOne = 0.0
    """Chance that a client drops out of a round before it reports."""
    stragglers: Share = 0.0
    """Chance that a client does only a part of its local steps in a round, any share of them."""
    speed: str = ""
    """Clients' local steps a second, for simulated time: constant:10, lognormal:10:1, uniform:5:20 or column:NAME."""
    bandwidth_up: str = "constant:1e6"
    """Clients' bytes a second to the server, for simulated time; as speed."""
    bandwidth_down: str = "constant:1e7"
    """Clients' bytes a second from the server, for simulated time; as speed."""
    concurrency: Count = 0
    """Clients that train at the same time in asynchronous algorithms; 0 for the algorithm's buffer."""


@options
class PromptOptions:
    """Prompts on a frozen CLIP."""

    clip: str = ""
    """CLIP's weights: a .safetensors file, or its folder; small: trained here, once; tiny: random."""
    prompt_tokens: Positive = 4
    """Tokens of a prompt."""
    prompt_branches: Literal["mean", "shared", "private"] = "mean"
    """Prompts whose cosines make a client's logits: mean of all, shared or private."""
    pacl_weight: Weight = 0.1
    """Weight of the alignment of private and shared prompt (PACL)."""
    cmfac_weight: Weight = 0.1
    """Weight of the alignment of images and texts (CMFAC)."""
    prompt_template: str = "a satellite photo of {}"
    """Text of a class, by its name, for zero-shot CLIP."""


@options
class MethodOptions:
    """Method: what clients learn together."""

    method: str = "mf+fw+mim"
    """unified, separate, mf, mf+fw+mim, fedrsclip, ... (see mmfl-jax list methods)."""
    logit_calibration: Calibration = "none"
    """Logit adjustment by each client's class shares, against label skew."""
    calibration_strength: Weight = 1.0
    """Strength of the logit adjustment."""
    private: str = ""
    """Words, such as norm,head: variables whose names contain one stay with the client."""
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    mim: MIMOptions = dataclasses.field(default_factory=MIMOptions)
    task: TaskOptions = dataclasses.field(default_factory=TaskOptions)
    prompts: PromptOptions = dataclasses.field(default_factory=PromptOptions)


@options
class AlgorithmOptions:
    """Algorithm: how the federation optimises it."""

    algorithm: str = "fedavg"
    """fedavg, fedprox:0.01, scaffold+int8, ... (see mmfl-jax list algorithms)."""
    server_schedule: Schedule = "constant"
    """Server's step over rounds; cosine goes towards 0."""
    weighting: Literal["samples", "uniform"] = "samples"
    """Weight of a client in averages."""


@options
class TrainingOptions:
    """Training: rounds and local steps."""

    rounds: Count = 20
    """Rounds."""
    local_epochs: Rate = 1.0
    """Epochs of local training in a round."""
    local_steps: Count = 0
    """Local steps in a round, whatever the client's size; 0 for local epochs."""
    batch_size: Positive = 32
    """Samples in a batch."""
    client_optimizer: Literal["adam", "adamw", "sgd", "momentum"] = "adam"
    """Client optimizer."""
    client_learning_rate: Rate = 1e-3
    """Learning rate of the clients."""
    learning_rate_schedule: Schedule = "constant"
    """Clients' learning rate over rounds; cosine goes towards 0."""
    flips: bool = False
    """Train on mirror images and quarter turns of images too."""
    crop: Count = 0
    """Train on random parts of images of this many pixels a side; 0 for whole images."""
    mask_dates: ShareBelowOne = 0.0
    """Share of the dates of a series that is hidden in training."""
    seed: Count = 0
    """Seed of weights, batches and cohorts; of the data too, without --data-seed."""


@options
class ExecutionOptions:
    """Execution: devices, memory, evaluation and checkpoints; none of it changes the training."""

    chunk_size: Count = 0
    """Clients that a device trains at once; 0 to choose by platform, memory and how unlike clients are."""
    devices: Count = 0
    """Devices to spread clients over; 0 for all. On a CPU, this many are made: one a core is fastest."""
    devices_per_client: Count = 0
    """Devices that share each client's images and batches; 0 to choose: more than one where clients are few."""
    client_memory: Literal["auto", "device", "host"] = "auto"
    """Where client state lies: device, or host, in a file from which the cohort's is copied to the device; auto is the
    host where it would take more than half of a device's memory."""
    stream_mb: Count = 0
    """Keep at most this many MB of training images on the device, and stream clients in waves; 0 keeps all there."""
    evaluation_moments: Literal["pooled", "own"] = "pooled"
    """Moments that normalise test images: those of training, or of each owner's own images (no label is used)."""
    evaluate_every: Positive = 5
    """Evaluate after every so many rounds, and at the end."""
    evaluate_clients: bool = False
    """Evaluate on each client's own samples too, at the end."""
    checkpoint_every: Positive = 10
    """Save a checkpoint after every so many rounds, and at the end."""
    image_cache: str = "~/.cache/mmfl_jax/images"
    """Folder that keeps the images of a large twin, which are drawn once; empty to keep none."""
    feature_cache: str = "~/.cache/mmfl_jax/features"
    """Folder that keeps CLIP's image features; empty to keep none."""
