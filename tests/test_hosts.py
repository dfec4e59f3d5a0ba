"""Several processes with their devices are one machine: same numbers, own files only, one line when one is gone."""

import json
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from devices import environment
from federations import ragged_federation, simulation, write_study
from test_round import assert_close, in_order

from mmfl_jax.runs.checkpoints import Checkpoints

HERE = str(Path(__file__).parent)
SIZES = [6, 7, 17, 60, 8, 40, 5, 9, 20, 9, 12]
HELD = [(("s1",), ("s2",))[i % 2] for i in range(len(SIZES))]
OPTIONS = {"method": "mf+fw+mim", "private": "norm", "algorithm": "scaffold", "rounds": 2, "evaluate_every": 1}
ONE_DEVICE_A_HOME = {"devices_per_client": 1}
# Seconds that a process may take; one that takes longer tells where it was.
LONGEST = 400
SCRIPT = f"""
import sys; sys.path.insert(0, {HERE!r})
import faulthandler, json, pathlib
faulthandler.dump_traceback_later({LONGEST - 30}, exit=True)
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[6]))
import mmfl_jax.rounds
from mmfl_jax import cluster
from federations import MemoryArchive, ragged_federation, simulation

address, processes, process, stream, folder = sys.argv[1], *map(int, sys.argv[2:5]), pathlib.Path(sys.argv[5])
cluster.join(address, processes, process, 100)
read, plain = set(), MemoryArchive.read
def counted(self, modality, indices):
    read.update((modality, int(i)) for i in indices)
    return plain(self, modality, indices)
MemoryArchive.read = counted
mmfl_jax.rounds.device_bytes = lambda mesh: 2**40 + process
sim = simulation(ragged_federation({SIZES}, {HELD}), stream_mb=stream, **{OPTIONS | ONE_DEVICE_A_HOME})
assert sim.mesh.size == int(sys.argv[6]) * processes
assert sim._device_bytes() == 2**40  # what all hosts have
summary = sim.run(folder / "run", report=False)
(folder / f"read-{{process}}.json").write_text(json.dumps(sorted(read)))
(folder / f"scores-{{process}}.json").write_text(json.dumps(summary["evaluation"]))
sim.evaluate_clients()
"""


def free_address():
    with socket.socket() as asked:
        asked.bind(("localhost", 0))
        return f"localhost:{asked.getsockname()[1]}"


def start(count, command, folder):
    """Start processes with the arguments that ``command(process)`` returns; their output goes into files."""
    processes = []
    for i in range(count):
        with (folder / f"out-{i}").open("w") as out, (folder / f"err-{i}").open("w") as errors:
            call = [sys.executable, *command(i)]
            processes.append(subprocess.Popen(call, env=environment(), stdout=out, stderr=errors))
    return processes


def ended(processes, folder, seconds=LONGEST):
    """Return the exit codes of processes, and what they said on standard error."""
    try:
        codes = [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return codes, [(folder / f"err-{i}").read_text() for i in range(len(processes))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the simulation by one process after its run, and its scores."""
    sim = simulation(ragged_federation(SIZES, HELD), devices=1, **OPTIONS)
    return sim, sim.run(tmp_path_factory.mktemp("alone") / "run", report=False)["evaluation"]


@pytest.mark.parametrize(
    ("count", "devices", "stream"),
    [(2, 2, 0), (4, 1, 0), (4, 2, 0), (2, 2, 1)],
    ids=["two", "four of one device", "four", "two, streamed"],
)
def test_processes_equal_one(tmp_path, alone, count, devices, stream):
    address = free_address()
    script = lambda i: ["-c", SCRIPT, address, str(count), str(i), str(stream), str(tmp_path), str(devices)]
    codes, errors = ended(start(count, script, tmp_path), tmp_path)
    assert codes == [0] * count, "\n".join(errors)

    sim, evaluation = alone
    saved = Checkpoints(tmp_path / "run" / "checkpoints", sim.placement, read_only=True)
    found = types.SimpleNamespace(state=saved.restore(sim.state)[1], placement=sim.placement)
    assert_close(in_order(found), in_order(sim), 1e-5, kept=1e-4)
    scores = [json.loads((tmp_path / f"scores-{i}.json").read_text()) for i in range(count)]
    for found in scores:
        for name, row in evaluation.items():
            assert found[name]["f1_macro"] == pytest.approx(row["f1_macro"], abs=1e-6)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 2

    federation = sim.federation
    reads = [{tuple(pair) for pair in json.loads((tmp_path / f"read-{i}.json").read_text())} for i in range(count)]
    held = {(m, int(s)) for group in federation.groups for m in group.modalities for s in group.samples}
    tested = {(m, int(s)) for m in federation.archive.modalities for s in federation.test}
    assert set.union(*reads) >= held | tested
    # Process 0 also reads eight samples of every modality, by which a run knows its images again.
    shared = {pair for pair in held | tested if sum(pair in read for read in reads) > 1}
    assert shared <= reads[0]
    assert len(shared) <= 8 * 2


def command(study, run_dir, address, count, *options):
    """Return the arguments of process ``i`` of a run by several."""
    begin = ["-m", "mmfl_jax", "run", str(study), "--run-dir", str(run_dir), "--quiet", "--devices", str(2 * count)]
    end = ["--coordinator", address, "--processes", str(count), "--join-timeout", "60", *options]
    return lambda i: [*begin, *end, "--process-id", str(i)]


def test_a_process_that_is_gone_ends_the_run_with_a_line_and_the_rest_go_on(tmp_path):
    study, run_dir = write_study(tmp_path, algorithm="scaffold", checkpoint_every=2), tmp_path / "run"
    processes = start(2, command(study, run_dir, free_address(), 2, "--rounds", "100000"), tmp_path)
    saved = run_dir / "checkpoints"
    end = time.monotonic() + 200
    while not any(path.name.isdecimal() and int(path.name) >= 4 for path in saved.glob("*")):
        assert time.monotonic() < end, [(tmp_path / f"err-{i}").read_text() for i in range(2)]
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes, errors = ended(processes, tmp_path, 60)
    assert time.monotonic() - killed < 60
    assert codes == [2, -signal.SIGKILL]
    (line,) = [line for line in errors[0].splitlines() if line.startswith("mmfl-jax:")]
    assert "process 1 was lost" in line or "a process was lost" in line
    assert f"is kept; continue with --resume --run-dir {run_dir} on the hosts that are left" in line
    rounds = max(int(path.name) for path in saved.glob("*") if path.name.isdecimal())
    resume = ["-m", "mmfl_jax", "run", str(study), "--run-dir", str(run_dir), "--resume", "--quiet", "--devices", "1"]
    codes, errors = ended(start(1, lambda i: [*resume, "--rounds", str(rounds + 1)], tmp_path), tmp_path)
    assert codes == [0], errors
    assert json.loads((run_dir / "summary.json").read_text())["rounds"] == rounds + 1


def test_a_signal_to_one_process_saves_and_ends_all(tmp_path):
    study, run_dir = write_study(tmp_path, rounds=100_000), tmp_path / "run"
    processes = start(2, command(study, run_dir, free_address(), 2), tmp_path)
    end = time.monotonic() + 200
    while not (run_dir / "metrics.jsonl").is_file() or (run_dir / "metrics.jsonl").read_text().count("\n") < 5:
        assert time.monotonic() < end, [(tmp_path / f"err-{i}").read_text() for i in range(2)]
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    codes, errors = ended(processes, tmp_path, 60)
    assert codes == [128 + signal.SIGTERM] * 2, errors
    assert "stopped by SIGTERM after round" in errors[0]
    rows = [json.loads(row) for row in (run_dir / "metrics.jsonl").read_text().splitlines()]
    saved = max(int(path.name) for path in (run_dir / "checkpoints").glob("*") if path.name.isdecimal())
    assert saved == max(row["round"] for row in rows)


FAILING = """
import resource, sys
from mmfl_jax import cli, cluster
from mmfl_jax.runs.checkpoints import Checkpoints

plain = Checkpoints.save
def save(self, round_number, *rest):
    if round_number == 4 and not cluster.leads():
        {failure}
    plain(self, round_number, *rest)
Checkpoints.save = save
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        # Orbax hears of it behind, where it would wait for the other process for twenty minutes.
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))", 2, "{}: a checkpoint cannot be written (File too "),
        ("raise KeyError('x')", 1, "an error that is told above"),
    ],
    ids=["a full disk", "a mistake of ours"],
)
def test_an_error_in_one_process_ends_all(tmp_path, failure, code, line):
    study, run_dir = write_study(tmp_path, checkpoint_every=2), tmp_path / "run"
    both = command(study, run_dir, free_address(), 2, "--rounds", "100000")
    processes = start(2, lambda i: ["-c", FAILING.format(failure=failure), *both(i)[2:]], tmp_path)
    codes, errors = ended(processes, tmp_path, 200)
    assert codes == [2, code], errors
    line = line.format(run_dir / "checkpoints")
    assert errors[1].splitlines()[-1].startswith(f"mmfl-jax: process 1: {line}")
    assert ("Traceback" in errors[1]) == (code == 1)
    (told,) = errors[0].splitlines()
    assert told.startswith(f"mmfl-jax: process 1 left: {line}")
    assert "; the checkpoint of round 2 is kept; continue with" in told


def test_processes_that_are_asked_for_different_things(tmp_path):
    study, run_dir = write_study(tmp_path), tmp_path / "run"
    both = command(study, run_dir, free_address(), 2)
    codes, errors = ended(start(2, lambda i: [*both(i), "--batch-size", str(16 + i)], tmp_path), tmp_path)
    assert 0 not in codes
    assert (
        "mmfl-jax: process 1 has other options than process 0: batch_size 17, not 16; start all with the same"
        in errors[0]
    )
    assert not run_dir.exists()


def test_a_process_that_fails_tells_the_others(tmp_path):
    study, run_dir = write_study(tmp_path), tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "something").touch()
    codes, errors = ended(start(2, command(study, run_dir, free_address(), 2), tmp_path), tmp_path)
    assert codes[0] == 2
    assert codes[1] != 0
    assert f"mmfl-jax: --run-dir {run_dir} exists; continue it with --resume, or name another directory" in errors[0]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--devices", "2", "--devices-per-client", "3"], "--devices-per-client 3 must divide both the 2 devices and"),
        (["--processes", "2"], "--processes and --process-id need --coordinator, HOST:PORT of process 0"),
        (["--coordinator", "here", "--processes", "2", "--process-id", "0"], "--coordinator 'here' is no address"),
        (
            ["--coordinator", "localhost:1", "--processes", "2", "--process-id", "2"],
            "I from 0 to N - 1; they are 2 and 2",
        ),
        (
            ["--coordinator", "localhost:1", "--processes", "2", "--process-id", "1", "--join-timeout", "1"],
            "--coordinator localhost:1: nobody answered within 1 s (Connection refused); start process 0 there",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, options, line):
    study = write_study(tmp_path)
    arguments = ["-m", "mmfl_jax", "run", str(study), "--run-dir", str(tmp_path / "run"), *options]
    codes, (errors,) = ended(start(1, lambda i: arguments, tmp_path), tmp_path)
    assert codes == [2]
    assert errors.count("\n") == 1
    assert line in errors
    assert not (tmp_path / "run").exists()


def test_processes_that_do_not_all_come(tmp_path):
    study, run_dir = write_study(tmp_path), tmp_path / "run"
    arguments = command(study, run_dir, free_address(), 2, "--join-timeout", "3")
    codes, (errors,) = ended(start(1, arguments, tmp_path), tmp_path)
    assert codes == [2]
    assert errors.endswith(": not all processes came within 3 s\n")
