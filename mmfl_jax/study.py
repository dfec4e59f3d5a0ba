"""A study: every option of one experiment, as a frozen dataclass; the command line has a flag for each field."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Study:
    """Say what to run.

    A study of ``experiments/`` is a Python file that assigns one of these to ``study``.
    """

    name: str = "study"
    """Name of the study; runs/NAME is the default run directory."""

    # Data
    archive: str = "twin"
    """Archive: twin, twinscenes, bigearthnet:DIR, scenes:DIR or arrays:FILE.npz."""
    modalities: str = ""
    """Modalities to use, such as s1,s2; empty for all of the archive."""
    image_size: int = 0
    """Bring images to this many pixels a side; 0 keeps their own size."""
    samples: int = 0
    """Samples to make (twin) or at most to take; 0 for the archive's default or all."""
    bands: int = 10
    """Sentinel-2 bands: 10, or 12 with the 60 m bands."""
    resampling: str = "bilinear"
    """How 20 m and 60 m bands are brought to 10 m: bilinear or nearest."""

    # Federation
    partition: str = "ds2"
    """How samples are dealt: iid, dirichlet:ALPHA, by:ATTRIBUTE[+ATTRIBUTE], ds1, ds2 or ds3."""
    clients: int = 0
    """Number of clients (of owners, with split); 0 for the partition's own: a client a value, or 10."""
    modality_assignment: str = "single"
    """Modalities of a client: single, all, mixed, or split (each part becomes a client a modality)."""
    missing_modalities: float = 0.0
    """Chance that a client with several modalities lacks each of them, never the last."""
    label_noise: float = 0.0
    """Share of training labels that are wrong."""
    attack: str = "none"
    """What hostile clients send: none, nan, large (1e30 times), sign_flip, or label_flip (trained on wrong labels)."""
    malicious: float = 0.2
    """Share of clients that are hostile, where there is an attack."""
    speed: str = ""
    """Clients' local steps a second, for simulated time: constant:10, lognormal:10:1, uniform:5:20 or column:NAME."""
    bandwidth_up: str = "constant:1e6"
    """Clients' bytes a second to the server, for simulated time; as speed."""
    bandwidth_down: str = "constant:1e7"
    """Clients' bytes a second from the server, for simulated time; as speed."""
    concurrency: int = 0
    """Clients that train at the same time in asynchronous algorithms; 0 for the algorithm's buffer."""
    test_split: str = "auto"
    """Test samples: official, by:ATTRIBUTE[:FOLD/FOLDS], a share such as 0.2, or auto."""

    # Method and algorithm
    method: str = "mf+fw+mim"
    """What clients learn together: unified, separate, mf, mf+fw+mim, fedrsclip, ... (see mmfl-jax list methods)."""
    algorithm: str = "fedavg"
    """How it is optimised: fedavg, fedprox:0.01, scaffold+int8, ... (see mmfl-jax list algorithms)."""
    server_schedule: str = "constant"
    """Server's step over rounds: constant or cosine (towards 0)."""
    logit_calibration: str = "none"
    """Calibration of client logits against label skew: none, fedlc, share or relative."""
    calibration_strength: float = 1.0
    """Strength of the calibration."""
    weighting: str = "samples"
    """Weight of a client in averages: samples or uniform."""
    private: str = ""
    """Words that make variables private, such as norm or head (comma between)."""

    # Model
    encoder: str = "auto"
    """Encoder: auto, resnet8, resnet18, resnet50, mlp or conv1d."""
    width: int = 0
    """Width of the encoder's first stage or hidden layers; 0 for its own."""
    fusion: str = "mean"
    """Fusion of the features present: mean, sum, max or concat."""
    norm: str = "batch"
    """Normalisation where there is no whitening: batch, group or none."""
    whitening: str = "cholesky"
    """FW's whitening matrix: cholesky, zca or newton_schulz."""
    whitening_where: str = "stem+stage1"
    """Where FW whitens: stem, stem+stage1 or all."""
    whitening_group: int = 4
    """Channels that are whitened together."""
    whitening_epsilon: float = 1e-3
    """Shrinkage of the covariance towards the identity."""
    whitening_moments: str = "batch"
    """Moments that whiten in training: batch, or pooled (the server's, followed by the client)."""
    precision: str = "float32"
    """Compute type of the model: float32 or bfloat16."""

    # Mutual information maximization
    mim_positives: str = "prototypes"
    """MIM's positives: prototypes, pairs or places."""
    mim_weight: float = 0.1
    """Weight of MIM in the local loss."""
    mim_temperature: float = 0.1
    """Temperature of InfoNCE."""
    mim_size: int = 64
    """Length of a projection."""

    # Prompts on a frozen CLIP
    clip: str = ""
    """CLIP's weights: a .safetensors file, or its folder; small: trained here, once; tiny: random."""
    prompt_tokens: int = 4
    """Tokens of a prompt."""
    prompt_branches: str = "mean"
    """Prompts whose cosines make a client's logits: mean of all, shared or private."""
    pacl_weight: float = 0.1
    """Weight of the alignment of private and shared prompt (PACL)."""
    cmfac_weight: float = 0.1
    """Weight of the alignment of images and texts (CMFAC)."""
    prompt_template: str = "a satellite photo of {}"
    """Text of a class, by its name, for zero-shot CLIP."""
    feature_cache: str = "~/.cache/mmfl_jax/features"
    """Folder that keeps image features; empty to keep none."""

    # Training
    rounds: int = 20
    """Rounds."""
    participation: str = "all"
    """Clients of a round: all, a share such as 0.1 (each by chance), a number such as 100, or per-group:N."""
    dropout: float = 0.0
    """Chance that a client drops out of a round before it reports."""
    stragglers: float = 0.0
    """Chance that a client does only a part of its local steps in a round, any share of them."""
    local_epochs: float = 1.0
    """Epochs of local training in a round."""
    local_steps: int = 0
    """Local steps in a round, whatever the client's size; 0 for local epochs."""
    batch_size: int = 32
    """Samples in a batch."""
    client_optimizer: str = "adam"
    """Client optimizer: adam, adamw, sgd or momentum."""
    client_learning_rate: float = 1e-3
    """Learning rate of the clients."""
    learning_rate_schedule: str = "constant"
    """Clients' learning rate over rounds: constant or cosine (towards 0)."""
    flips: bool = False
    """Train on mirror images and quarter turns of images too."""
    mask_dates: float = 0.0
    """Share of the dates of a series that is hidden in training."""
    seed: int = 0
    """Seed of partition, weights and batches."""

    # Engine
    chunk_size: int = 0
    """Clients that a device trains at once; 0 to choose by platform and model."""
    devices: int = 0
    """Devices to spread clients over; 0 for all. On a CPU, this many are made: one a core is fastest."""
    stream_mb: int = 0
    """Keep at most this many MB of training images on the device, and stream clients in waves; 0 keeps all there."""

    # Evaluation and checkpoints
    evaluate_every: int = 5
    """Evaluate after every so many rounds, and at the end."""
    evaluate_clients: bool = False
    """Evaluate on each client's own samples too, at the end."""
    checkpoint_every: int = 10
    """Save a checkpoint after every so many rounds, and at the end."""

    def replace(self, **changes: Any) -> Study:
        """Return the study with other values for some fields."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Return the study as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, path: Path) -> Study:
        """Return the study that :meth:`to_json` wrote to ``path``.

        Raises:
          UserError: for a file that is missing, damaged, or of another version.
        """
        try:
            fields = json.loads(path.read_text())
            return cls(**fields)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; is {path.parent} a run directory?") from None
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{path} is not a study's configuration: {error}") from None


def experiments() -> dict[str, Path]:
    """Return the studies at hand by name: of ``./experiments``, and those that come with the package."""
    here = Path(__file__).resolve().parent
    found: dict[str, Path] = {}
    for folder in (here / "experiments", here.parent / "experiments", Path.cwd() / "experiments"):
        for path in sorted(folder.glob("*.py")):
            if "study = " in path.read_text():
                found[path.stem] = path
    return found


def load_study(reference: str) -> Study:
    """Return a study by its name in ``experiments/`` or by the path of its file.

    Raises:
      UserError: when there is none, or the file has no ``study``.
    """
    path = Path(reference) if reference.endswith(".py") else experiments().get(reference)
    if path is None or not path.is_file():
        known = ", ".join(experiments()) or "none"
        raise UserError(
            f"study {reference!r} is unknown; one of {known}, or the path of a .py file that assigns `study`"
        )
    spec = importlib.util.spec_from_file_location(f"mmfl_jax_study_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "study", None), Study):
        raise UserError(f"{path} assigns no `study = Study(...)`")
    return module.study
