"""Damaged, locked, full and interrupted run directories: one line each, and nothing lost that was saved."""

import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from federations import MemoryArchive, ragged_federation, simulation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_report import make_run

from mmfl_jax import files
from mmfl_jax.errors import UserError
from mmfl_jax.lock import check_free, locked
from mmfl_jax.report.page import render_page
from mmfl_jax.runs import checkpoints, directory, loop, predictions, read_run

FILES = ("config.json", "federation.json", "metrics.jsonl", "summary.json")


@pytest.fixture(scope="module")
def federation():
    return ragged_federation([9, 14], [("s1",), ("s2",)])


def made(federation, **options):
    small = {"method": "mf", "rounds": 2, "checkpoint_every": 1, "evaluate_every": 1, **options}
    return simulation(federation, **small)


@pytest.fixture(scope="module")
def run(federation, tmp_path_factory):
    """A run that has done one of its two rounds, the simulation that did it, and how it ends."""
    folder = tmp_path_factory.mktemp("runs")
    made(federation, rounds=1).run(folder / "half", report=False)
    (folder / "half" / "summary.json").unlink()
    sim = made(federation)
    shutil.copytree(folder / "half", folder / "whole")
    return folder / "half", sim, sim.run(folder / "whole", resume=True, report=False)


@pytest.fixture
def half(run, tmp_path):
    """A copy of the run that has done one round."""
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


def refused(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def edit(name, change):
    """Return what changes the JSON of a file, or of a line of the metrics."""

    def apply(folder):
        path, _, line = name.partition(":")
        text = (folder / path).read_text()
        lines = text.splitlines() if line else [text]
        value = json.loads(lines[int(line or 1) - 1])
        change(value)
        lines[int(line or 1) - 1] = json.dumps(value)
        (folder / path).write_text("\n".join(lines) + "\n" * bool(line))

    return apply


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def lines(change):
    """Return what changes the list of the metrics' lines: evaluation 0, round 1, evaluation 1, round 2, ..."""

    def apply(folder):
        path = folder / "metrics.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return apply


DAMAGES = [
    (lambda f: (f / "config.json").unlink(), "run: not a run directory, it has no config.json"),
    (lambda f: (f / "metrics.jsonl").unlink(), "run: not a run directory, it has no metrics.jsonl"),
    (write("config.json", b"{"), "config.json is not a study's configuration"),
    (write("config.json", b"[1]"), "config.json is not a study's configuration"),
    (write("config.json", b"\xff\xfe"), "config.json is not a study's configuration"),
    (write("config.json", b"[" * 100000), "config.json is not a study's configuration"),
    (edit("config.json", lambda v: v.update(ruonds=2)), "config.json is not a study's configuration"),
    (
        edit("config.json", lambda v: v.update(rounds="ten")),
        "config.json: rounds 'ten': must be a whole number",
    ),
    (write("federation.json", b'{"clients": []}'), "federation.json: task: field required"),
    (write("federation.json", b"\xff\xfe"), "federation.json: not valid JSON"),
    (write("federation.json", b"[1]"), "federation.json: input should be an object, found [1]"),
    (
        edit("federation.json", lambda v: v["clients"][1].update(samples=-1)),
        "federation.json: clients.1.samples: input should be greater than or equal to 0, found -1",
    ),
    (
        edit("federation.json", lambda v: v["clients"][0]["labels"].pop()),
        "federation.json: clients.0.labels: has 2 counts, not one for each of the 3 classes",
    ),
    (
        edit("federation.json", lambda v: v.update(class_names="abc")),
        "federation.json: class_names: input should be a valid array, found 'abc'",
    ),
    (write("metrics.jsonl", b"{}\n"), "metrics.jsonl: line 1: kind must be round or evaluation, found {}"),
    (write("metrics.jsonl", b"\x00\n"), "metrics.jsonl: line 1: not valid JSON"),
    (edit("metrics.jsonl:2", lambda v: v.pop("loss")), "metrics.jsonl: line 2: loss: field required"),
    (
        edit("metrics.jsonl:2", lambda v: v.update(bytes_up="9")),
        "metrics.jsonl: line 2: bytes_up: input should be a valid integer, found '9'",
    ),
    (
        edit("metrics.jsonl:2", lambda v: v.update(round=True)),
        "metrics.jsonl: line 2: round: input should be a valid integer, found True",
    ),
    (
        edit("metrics.jsonl:3", lambda v: v.update(evaluation=[1])),
        "metrics.jsonl: line 3: evaluation: input should be an object, found [1]",
    ),
    (lines(lambda rows: rows[:1] + rows[2:]), "metrics.jsonl: line 2: evaluation of round 1 after round 0"),
    (lines(lambda rows: rows[:3] + rows[5:]), "metrics.jsonl: line 4: round of round 3 after round 1"),
    (lines(lambda rows: rows[:2] + rows[1:]), "metrics.jsonl: line 3: round of round 1 after round 1"),
    (lines(lambda rows: rows[:3] + rows[2:]), "line 4: evaluation of round 1 after round 1 and its evaluation"),
    (lines(lambda rows: rows[:1] + rows[3:] + rows[1:3]), "metrics.jsonl: line 2: round of round 2 after round 0"),
    (lines(lambda rows: rows[:-2]), "metrics.jsonl: ends with round 5, but summary.json is of round 6"),
    (write("summary.json", b"{"), "summary.json: not valid JSON"),
    (edit("summary.json", lambda v: v.update(evaluation=[1])), "summary.json: evaluation: input should be an object"),
    (edit("summary.json", lambda v: v["evaluation"].update(s1=1)), "summary.json: evaluation.s1: input should be"),
    (edit("summary.json", lambda v: v.pop("cost")), "summary.json: cost: field required"),
    (
        edit("summary.json", lambda v: v["communication"].update(total_bytes=None)),
        "summary.json: communication.total_bytes: input should be a valid number, found None",
    ),
]


@pytest.mark.parametrize("damage, message", DAMAGES)
def test_a_damaged_file_is_one_line(tmp_path, damage, message):
    folder = make_run(tmp_path / "run")
    damage(folder)
    refused(lambda: read_run(folder), message)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("sound") / "run")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), data=st.data())
def test_damaged_bytes_are_refused_or_read(sound, name, data):
    path = sound / name
    whole = path.read_bytes()
    bytes_at = st.tuples(st.integers(0, len(whole) - 1), st.binary(max_size=4), st.integers(0, 40))
    damaged = whole
    for place, new, lost in data.draw(st.lists(bytes_at, min_size=1, max_size=3)):
        damaged = damaged[:place] + new + damaged[place + lost :]
    path.write_bytes(damaged)
    said = str(sound)
    try:
        render_page(read_run(sound), {})
    except UserError as error:
        said = str(error)
    finally:
        path.write_bytes(whole)
    assert str(sound) in said
    assert "\n" not in said


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), new=st.binary(max_size=4), lost=st.integers(0, 40))
def test_damaged_predictions_are_refused_or_read(sound, place, new, lost):
    whole = io.BytesIO()
    kept = {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.array([0, 1]), "answers": np.array([1, 2])}
    np.savez_compressed(whole, **kept, personal=np.array([0.5, np.nan], np.float32))
    at = int(place * len(whole.getvalue()))
    (sound / predictions.FILE).write_bytes(whole.getvalue()[:at] + new + whole.getvalue()[at + lost :])
    try:
        found = predictions.load(sound, 3)
        said = str(sound / predictions.FILE)
        assert all(0 <= value < 3 for name in ("labels", "answers") for value in found.get(name, []))
    except UserError as error:
        said = str(error)
    assert str(sound / predictions.FILE) in said
    assert "\n" not in said


def rename(folder):
    (folder / "checkpoints" / "1").rename(folder / "checkpoints" / "2")


RESUMES = [
    (rename, "checkpoints/2 holds round 1, not 2: it was renamed"),
    (lambda f: (f / "metrics.jsonl").unlink(), "metrics.jsonl does not exist; is"),
    (lines(lambda rows: rows[:1]), "metrics.jsonl: ends with round 0, but the checkpoint is of round 1"),
    (lines(lambda rows: rows[:1] + rows[2:]), "metrics.jsonl: line 2: evaluation of round 1 after round 0"),
    (edit("metrics.jsonl:2", lambda v: v.pop("bytes_up")), "metrics.jsonl: line 2: bytes_up: field required"),
    (lambda f: (f / "federation.json").unlink(), "federation.json does not exist; is"),
    (
        edit("federation.json", lambda v: v["class_names"].reverse()),
        "federation.json: the run's class 0 is 'class 2', the archive's is 'class 0' now",
    ),
    (
        edit("federation.json", lambda v: v["images"]["s1"]["channels"].reverse()),
        "federation.json: the run's s1 has channels ['1', '0'], not ['0', '1']",
    ),
]


@pytest.mark.parametrize("damage, message", RESUMES)
def test_a_resume_that_would_go_on_wrongly_is_refused(run, half, damage, message):
    damage(half)
    before = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    refused(lambda: run[1].run(half, resume=True), message)
    assert {path: path.read_bytes() for path in half.rglob("*") if path.is_file()} == before


def test_images_that_changed_under_the_run_are_refused(run, half, monkeypatch):
    archive = run[1].federation.archive
    monkeypatch.setitem(archive.images, "s2", archive.images["s2"] + np.float32(1e-3))
    refused(lambda: run[1].run(half, resume=True), "federation.json: the run's images of s2 are not those found now")
    # Of before the images were told: nothing to compare.
    edit("federation.json", lambda v: v.pop("images"))(half)
    directory.check_same_federation(half, run[1].federation.describe())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: setattr(a, "class_names", a.class_names[::-1]), "class 0 is 'class 2', not 'class 0' as in the run"),
        (lambda a: setattr(a, "class_names", a.class_names[:2]), "has 2 multilabel classes, not the 3 multilabel"),
        (
            lambda a: a.modalities.update(s1=dataclasses.replace(a.modalities["s1"], channels=("1", "0"))),
            "modality s1 has channels ('1', '0'), not ('0', '1')",
        ),
    ],
)
def test_an_archive_whose_classes_or_channels_are_others_is_not_evaluated_on(run, change, message):
    other = MemoryArchive()
    change(other)
    refused(lambda: run[1].evaluate(other), message)


def full(name):
    """Return what makes the disk full for files of this name."""

    def patch(monkeypatch):
        if name == "checkpoint":
            no_space = OSError(errno.ENOSPC, "No space left on device")
            monkeypatch.setattr(
                checkpoints.ocp.CheckpointManager, "wait_until_finished", lambda self: (_ for _ in ()).throw(no_space)
            )
            return
        replace = os.replace

        def refuse(source, target):
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", refuse)

    return patch


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint", "summary.json"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_from_what_was_saved(run, half, monkeypatch, name):
    _, sim, whole = run
    with monkeypatch.context() as patch:
        full(name)(patch)
        where = "checkpoints: a checkpoint cannot be written" if name == "checkpoint" else f"{name}: cannot be written"
        refused(lambda: sim.run(half, resume=True, report=False), f"{where} (")
    assert not list(half.glob("*.part"))
    assert not (half / "summary.json").exists()
    assert sim.run(half, resume=True, report=False)["state_sha256"] == whole["state_sha256"]


@pytest.mark.parametrize("remove", [lambda f: (f / "metrics.jsonl").unlink(), shutil.rmtree])
def test_what_is_removed_while_the_run_goes_is_told(run, half, monkeypatch, remove):
    begin = loop._Loop.round

    def round(self, last):
        remove(half)
        begin(self, last)

    monkeypatch.setattr(loop._Loop, "round", round)
    refused(lambda: run[1].run(half, resume=True), "metrics.jsonl was removed while the run wrote it")


def test_what_a_summary_says_of_the_archive_is_known_before_the_first_round(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run[1].federation.archive, "notes", {"country": {1, 2}})
    refused(lambda: run[1].run(tmp_path / "run"), "archive memory: what it says of itself is no JSON")
    assert not (tmp_path / "run").exists()


HOLD = """
import sys, time
from pathlib import Path
from mmfl_jax.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_process_in_a_directory_is_refused_until_the_first_is_gone(half, run):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(half)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        message = f"{half} is in use by process {holder.pid} on "
        refused(lambda: run[1].run(half, resume=True), message)
        refused(lambda: check_free(half), message)
        with pytest.raises(UserError, match=message), locked(half):
            pass
    finally:
        holder.kill()
        holder.communicate()
    check_free(half)  # a kill leaves the file, and no lock
    with locked(half):
        pass
    assert not (half / "lock").exists()


# What XLA does while it compiles: a long call that never comes back to Python; hear() is a round that can be saved.
SIGNALLED = """
import hashlib, signal, sys, time
from mmfl_jax.runs.signals import graceful, watched

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
with watched():
    if sys.argv[1] == "round":
        with graceful() as caught:
            print("on", flush=True)
            while not caught:
                time.sleep(0.01)
            print("caught", caught[0], flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    print("on", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_long_call_and_the_second_one_a_round(number):
    start = lambda where: subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes = {where: start(where) for where in ("call", "round")}
    for where, process in processes.items():
        assert process.stdout.readline() == "on\n"
        process.send_signal(number)
        if where == "round":
            assert process.stdout.readline() == f"caught {int(number)}\n"
            process.send_signal(number)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 128 + number
        assert said == f"mmfl-jax: stopped by {number.name} at once; what was saved before is whole\n"


@pytest.mark.parametrize(
    "redirection, code, message",
    [
        (">/dev/full", 2, "mmfl-jax: standard output cannot be written (No space left on device)"),
        (">&-", 2, "mmfl-jax: standard output cannot be written (it is closed)"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_a_stream_that_cannot_be_written(redirection, code, message):
    call = f"'{sys.executable}' -c 'from mmfl_jax.cli import main; main()' {redirection}"
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == bool(message)
    assert bool(re.match("usage: mmfl-jax", done.stdout)) == (code == 0)
