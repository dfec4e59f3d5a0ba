"""Damage files at random, byte by byte, and read them: no reader may end in anything but a UserError of one line.

``python tests/faults/fuzz.py --reader npz --minutes 10`` prints what was found, and how to see a case again. A further
reader is a pair of functions in ``READERS``: one writes good files into a folder and returns those to damage, the other
reads the folder.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

import geotiffs  # noqa: E402

from mmfl_jax import Study, archives, runs  # noqa: E402
from mmfl_jax.errors import UserError  # noqa: E402
from mmfl_jax.federation import Federation  # noqa: E402

# What stands where a number, a text or a sign is expected.
ODD = (
    *(b"\0", b"\xff", b"\x80", b"\n", b'"', b"'", b",", b"{", b"}", b"[", b"]", b"(", b")", b"\\", b"/", b"..", b"-"),
    *(
        b"null",
        b"true",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-1",
        b"0",
        b"1.5",
        b"[]",
        b"{}",
        b'""',
        b"\xe9",
        b"O",
        b"<c16",
    ),
    *(struct.pack("<I", value) for value in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)),
    *(struct.pack("<Q", value) for value in (2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    *(struct.pack("<f", value) for value in (np.nan, np.inf, 1e38)),
    b"9" * 30,
)
KINDS = ("flip", "replace", "insert", "cut", "delete", "swap", "repeat")
SECONDS = 30


@dataclass(frozen=True)
class Edit:
    """Say one change of a file: a place between 0 and 1, and how far it goes."""

    kind: str
    place: float
    length: int
    value: bytes

    def __call__(self, content: bytes) -> bytes:
        """Return the changed content."""
        at = min(int(self.place * len(content)), max(len(content) - 1, 0))
        end = min(at + self.length, len(content))
        before, part, after = content[:at], content[at:end], content[end:]
        if self.kind == "flip":
            return before + bytes(byte ^ (1 << self.length % 8) for byte in part[:1]) + part[1:] + after
        if self.kind == "replace":
            return before + self.value + content[at + len(self.value) :]
        changed = {"insert": self.value + part, "cut": b"", "delete": b"", "swap": part[::-1], "repeat": part * 2}
        return before + changed[self.kind] + (b"" if self.kind == "cut" else after)


@dataclass(frozen=True)
class Reader:
    """Hold what writes good files into a folder and returns those to damage, and what reads the folder."""

    write: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]


def damage(path: Path, edits: Sequence[Edit], inside: bool) -> None:
    """Change a file; of a zip file, where ``inside``, one member before it is packed, so that checksums are right."""
    content = path.read_bytes()
    if not (inside and zipfile.is_zipfile(path)):
        for edit in edits:
            content = edit(content)
        path.write_bytes(content)
        return
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    chosen = sorted(members)[int(edits[0].place * len(members)) % len(members)]
    for edit in edits:
        # Headers are short: half of the changes are there.
        short = Edit(edit.kind, edit.place * 0.1, edit.length, edit.value) if edit.length % 2 else edit
        members[chosen] = short(members[chosen])
    with zipfile.ZipFile(path, "w") as file:
        for name, member in members.items():
            file.writestr(name, member)


def verdict(reader: Reader, folder: Path) -> str:
    """Return what a folder is answered with: ``read`` or the refusal; raise AssertionError for any other end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder)
    except UserError as error:
        line = str(error)
        assert len(line.splitlines()) == 1, f"not one line: {line!r}"
        return line
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    return "read"


def use(archive: archives.Archive) -> None:
    """Do with an archive what a run does: describe it as JSON, deal it out, read its images."""
    json.dumps(archive.describe())
    for modality, spec in archive.modalities.items():
        assert archive.read(modality, np.arange(len(archive))).shape == (len(archive), *spec.shape)
    Federation.split(archive, "iid", clients=2, test_split="0.4")


def write_npz(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    columns = {
        "image": rng.normal(size=(8, 4, 4, 2)).astype(np.float32),
        "series": rng.integers(0, 9, (8, 3, 2)).astype(np.int16),
        "label": np.arange(8) % 3,
        "class_names": np.array(["a", "b", "c"]),
        "region": np.array(list("aabbccdd")),
        "split": np.array(["train"] * 5 + ["test"] * 3),
    }
    np.savez(folder / "a.npz", **columns)
    np.savez_compressed(folder / "b.npz", **columns, height=np.arange(8.0))
    return [folder / "a.npz", folder / "b.npz"]


def read_npz(folder: Path) -> None:
    for path in sorted(folder.glob("*.npz")):
        use(archives.open(f"arrays:{path}", image_size=8))


def bare(write: Callable[[Path], Path], folder: Path) -> Path:
    """Write a tree of BigEarthNet without its images."""
    whole, geotiffs.write_band = geotiffs.write_band, lambda path, *_: path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return write(folder)
    finally:
        geotiffs.write_band = whole


def write_bigearthnet(folder: Path) -> list[Path]:
    geotiffs.write_v1(folder)
    return sorted(folder.glob("*/*/*"))


def read_bigearthnet(folder: Path) -> None:
    use(archives.open(f"bigearthnet:{folder}", image_size=16, bands=12))


def write_metadata(folder: Path) -> list[Path]:
    bare(geotiffs.write_v2, folder)
    return [folder / "metadata.parquet"]


def write_lists(folder: Path) -> list[Path]:
    bare(geotiffs.write_v1, folder)
    for name, (patch, *_) in zip(("train.csv", "val.csv", "test.csv"), geotiffs.V1_PATCHES):
        (folder / name).write_text(f"{patch},S1\n")
    (folder / "patches_with_seasonal_snow.csv").write_text(f"{geotiffs.V1_PATCHES[1][0]}\n")
    return [*folder.glob("*.csv"), *sorted(folder.glob("*/*/*.json"))]


def read_tables(folder: Path) -> None:
    archive = archives.open(f"bigearthnet:{folder}")
    json.dumps(archive.describe())
    Federation.split(archive, "by:country", test_split="0.4")


def write_safetensors(folder: Path) -> list[Path]:
    source = HERE.parent / "data" / "clip" / "hugging_face"
    return [Path(shutil.copy(source / name, folder)) for name in ("model.safetensors", "config.json")]


def read_safetensors(folder: Path) -> None:
    from mmfl_jax.models import clip

    clip.load(folder)


def write_scenes(folder: Path) -> list[Path]:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("lake", "river"):
        (folder / name).mkdir()
        for suffix in (".png", ".jpg", ".tif", ".bmp"):
            Image.fromarray(rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(folder / name / f"a{suffix}")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(folder / "lake" / "grey.tif")
    Image.fromarray(rng.integers(0, 256, (18, 20), dtype=np.uint8)).convert("P").save(folder / "lake" / "palette.png")
    return sorted(folder.glob("*/*"))


def read_scenes(folder: Path) -> None:
    use(archives.open(f"scenes:{folder}", image_size=16))


def write_run(folder: Path) -> list[Path]:
    from test_report import make_run

    run = make_run(folder / "run")
    (run / "config.json").write_text(Study.of(rounds=3).to_json())
    return sorted(run.glob("*.json*"))


def read_run(folder: Path) -> None:
    from mmfl_jax.report.page import render_page
    from mmfl_jax.runs.schema import read_config

    read_config(folder / "run")
    render_page(runs.read_run(folder / "run"), {})


READERS = {
    "npz": Reader(write_npz, read_npz),
    "bigearthnet": Reader(write_bigearthnet, read_bigearthnet),
    "metadata": Reader(write_metadata, read_tables),
    "lists": Reader(write_lists, read_tables),
    "safetensors": Reader(write_safetensors, read_safetensors),
    "scenes": Reader(write_scenes, read_scenes),
    "run": Reader(write_run, read_run),
}


def draw(rng: np.random.Generator) -> list[Edit]:
    """Draw one to four changes."""
    return [
        Edit(str(rng.choice(KINDS)), float(rng.random()), int(rng.integers(1, 64)), ODD[int(rng.integers(0, len(ODD)))])
        for _ in range(int(rng.integers(1, 5)))
    ]


def try_case(reader: Reader, good: Path, files: Sequence[Path], folder: Path, seed: Sequence[int]) -> str:
    """Damage one of the files as a seed says, and return what it is answered with; the good file is put back."""
    rng = np.random.default_rng(seed)
    path = files[int(rng.integers(0, len(files)))]
    damage(path, draw(rng), inside=bool(rng.integers(0, 2)))
    signal.alarm(SECONDS)
    try:
        answer = verdict(reader, folder)
    finally:
        signal.alarm(0)
    shutil.copy(good / path.relative_to(folder), path)
    return answer


def late(*_: object) -> None:
    """End a case that does not end by itself."""
    raise TimeoutError(f"no answer within {SECONDS} s")


def main() -> None:
    """Try cases until the time is over; leave with 1 where one was mishandled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--case", type=int, help="try this case alone, and keep its folder")
    options = parser.parse_args()
    faulthandler.enable()
    signal.signal(signal.SIGALRM, late)
    reader = READERS[options.reader]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    work, good = folder / "work", folder / "good"
    work.mkdir()
    files = reader.write(work)
    shutil.copytree(work, good)
    assert verdict(reader, work) == "read", "the good files are refused"
    print(f"{options.reader}: seed {options.seed}, in {folder}", flush=True)
    counts: collections.Counter[str] = collections.Counter()
    end, case, told = time.monotonic() + 60 * options.minutes, options.case or 0, time.monotonic()
    while time.monotonic() < end:
        try:
            answer = try_case(reader, good, files, work, (options.seed, case))
            counts["read" if answer == "read" else "refused"] += 1
            if options.case is not None:
                print(answer)
        except AssertionError as error:
            counts["mishandled"] += 1
            where = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
            print(f"case {case}: {str(error)[:300]} ({where.filename}:{where.lineno})", flush=True)
            print(f"  python tests/faults/fuzz.py --reader {options.reader} --seed {options.seed} --case {case}")
            if options.case is not None:
                traceback.print_exception(error)
            shutil.rmtree(work)
            shutil.copytree(good, work)
        if options.case is not None:
            return
        case += 1
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"case {case}: {dict(counts)}", flush=True)
    shutil.rmtree(folder)
    print(f"{options.reader}: {case} cases, {counts['read']} read, {counts['refused']} refused, ", end="")
    print(f"{counts['mishandled']} mishandled")
    sys.exit(bool(counts["mishandled"]))


if __name__ == "__main__":
    main()
