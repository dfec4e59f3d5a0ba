"""What the files of a run directory hold, a schema a file, and the one place where they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from mmfl_jax.errors import UserError
from mmfl_jax.study import Study

CONFIG, FEDERATION, METRICS, SUMMARY = "config.json", "federation.json", "metrics.jsonl", "summary.json"
#: The algorithms that bound all others, and the folder of their runs in the directory of a run.
BOUNDS, BOUNDS_FOLDER = ("centralized", "local"), "bounds"

# What else a file says is kept as it is.
_AS_WRITTEN = ConfigDict(extra="allow")
_Count = Annotated[int, Field(ge=0)]
_Score = float | None | str | list[float | None] | list[list[float]]
_Evaluation = dict[str, dict[str, _Score]]


@with_config(_AS_WRITTEN)
class ImagesFile(TypedDict):
    """Say what the images of a modality are: shape, names of channels, digest of some pixels."""

    shape: list[_Count]
    channels: list[str]
    sha256: str


@with_config(_AS_WRITTEN)
class ClientFile(TypedDict):
    """Say what a client holds."""

    name: str
    modalities: list[str]
    labels: list[_Count]
    samples: _Count


@with_config(_AS_WRITTEN)
class FederationFile(TypedDict):
    """federation.json; runs of before have no ``images``."""

    task: str
    class_names: list[str]
    clients_total: _Count
    clients: list[ClientFile]
    train_samples: _Count
    test_samples: _Count
    sha256: str
    images: NotRequired[dict[str, ImagesFile]]


@with_config(_AS_WRITTEN)
class RoundLine(TypedDict):
    """A line of metrics.jsonl: what was measured in a round."""

    kind: Literal["round"]
    round: Annotated[int, Field(ge=1)]
    loss: float
    seconds: float
    clients: _Count
    skipped_clients: _Count
    padding_waste: float
    device_waiting: NotRequired[float]
    bytes_up: _Count
    bytes_down: _Count
    simulated_seconds: NotRequired[float]


@with_config(_AS_WRITTEN)
class EvaluationLine(TypedDict):
    """A line of metrics.jsonl: scores by modality set after a round, 0 before the first."""

    kind: Literal["evaluation"]
    round: _Count
    evaluation: _Evaluation


@with_config(_AS_WRITTEN)
class Communication(TypedDict):
    """Bytes of a run."""

    bytes_up_per_client: float
    bytes_down_per_client: float
    total_bytes: float


@with_config(_AS_WRITTEN)
class Cost(TypedDict):
    """Arithmetic, time and memory of a run."""

    flops_per_round: float | None
    compile_seconds: float | None
    seconds_per_round: float | None
    padding_waste: float | None
    device_waiting: NotRequired[float]
    peak_memory_bytes: float | None


@with_config(_AS_WRITTEN)
class SummaryFile(TypedDict):
    """summary.json."""

    rounds: _Count
    evaluation: _Evaluation
    baseline: dict[str, _Score]
    communication: Communication
    cost: Cost
    privacy: NotRequired[dict[str, float] | None]
    validation: NotRequired[_Evaluation]
    best_round: NotRequired[_Count | None]
    bounds: NotRequired[dict[str, _Evaluation]]
    simulated_seconds: NotRequired[float | None]
    skipped_clients: _Count
    state_sha256: str
    versions: dict[str, str]
    archive: dict[str, Any]
    personal: NotRequired[dict[str, _Score]]
    clip: NotRequired[dict[str, Any]]
    clients: NotRequired[list[dict[str, Any]]]


_FEDERATION: TypeAdapter[Any] = TypeAdapter(FederationFile)
_LINE: TypeAdapter[Any] = TypeAdapter(Annotated[RoundLine | EvaluationLine, Field(discriminator="kind")])
_SUMMARY: TypeAdapter[Any] = TypeAdapter(SummaryFile)


def read_config(run_dir: Path) -> Study:
    """Return the study that ``config.json`` holds.

    Raises:
      UserError: for a file that is missing, damaged, or of another version.
    """
    return Study.from_json(run_dir / CONFIG)


def read_federation(run_dir: Path) -> dict[str, Any]:
    """Return what ``federation.json`` holds.

    Raises:
      UserError: for a file that is missing or damaged.
    """
    path = run_dir / FEDERATION
    federation: dict[str, Any] = _parsed(_FEDERATION, _bytes(path), f"{path}")
    classes = len(federation["class_names"])
    for position, client in enumerate(federation["clients"]):
        if len(client["labels"]) != classes:
            raise UserError(
                f"{path}: clients.{position}.labels: has {len(client['labels'])} counts, not one for each of the "
                f"{classes} classes"
            )
    return federation


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``: every round from 1 on, once and in order, with evaluations between.

    A last line without its end is what a kill leaves, and is left out.

    Raises:
      UserError: for a file that is missing or damaged, or a round that is missing, repeated or out of order.
    """
    path = run_dir / METRICS
    rows = []
    rounds, evaluated = 0, -1
    for number, text in enumerate(_bytes(path).split(b"\n")[:-1], start=1):
        row = _parsed(_LINE, text, f"{path}: line {number}")
        expected = rounds + 1 if row["kind"] == "round" else rounds
        if row["round"] != expected or (row["kind"] == "evaluation" and evaluated == expected):
            found = f"{row['kind']} of round {row['round']}"
            raise UserError(
                f"{path}: line {number}: {found} after round {rounds}{' and its evaluation' * (evaluated == rounds)}; "
                "lines are missing, repeated or out of order"
            )
        if row["kind"] == "round":
            rounds = row["round"]
        else:
            evaluated = row["round"]
        rows.append(row)
    return rows


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Return what ``summary.json`` holds, empty where a run has not finished.

    Raises:
      UserError: for a damaged file.
    """
    path = run_dir / SUMMARY
    return _parsed(_SUMMARY, _bytes(path), f"{path}") if path.exists() else {}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} a run directory?") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _parsed(adapter: TypeAdapter[Any], text: bytes, where: str) -> Any:
    """Return what ``text`` holds, as it stands there, once it is known to be what it should."""
    try:
        adapter.validate_json(text, strict=True)  # a number is a number: no text, no truth value
        return json.loads(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{where}: {error}") from None
    if first["type"] == "json_invalid":
        raise UserError(f"{where}: not valid JSON ({first['ctx']['error']}), found {_short(text)}")
    if first["type"].startswith("union_tag"):
        raise UserError(f"{where}: kind must be round or evaluation, found {_short(first['input'])}")
    # A line's place begins with its kind.
    field = ".".join(map(str, first["loc"][adapter is _LINE :]))
    found = f", found {_short(first['input'])}" if first["type"] != "missing" else ""
    said = first["msg"][0].lower() + first["msg"][1:]
    raise UserError(f"{where}: {field + ': ' if field else ''}{said}{found}")


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
