"""Kill a run with SIGKILL at random moments, resume it, and compare its end with that of a run that nothing stopped.

    python tests/faults/kill.py --kills 50

A run is killed up to six times, and resumed each time; it begins on two CPU devices, and every second run goes on with
one. On as many devices the end is the same to the bit; on fewer, sums have another order, and parameters differ by
rounding. Prints a row of JSON; leaves with 1 where a run was lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from federations import write_study

from mmfl_jax import runs

# What a resumed run must bring along: private variables, prototypes, the server's momentum, each round's cohort.
OPTIONS = {
    "method": "mf+mim",
    "private": "norm",
    "algorithm": "fedavgm",
    "participation": "3",
    "evaluate_every": 4,
    "checkpoint_every": 1,
    "rounds": 12,
}
# Of parameters near 1, after 12 rounds whose sums have another order.
TOLERANCE = 1e-4
# Kills of one run.
MOST = 6


def command(folder: Path, run_dir: Path, devices: int, resume: bool) -> list[str]:
    """Return the call of a run."""
    call = [sys.executable, "-c", "from mmfl_jax.cli import main; main()", "run", str(folder / "small.py"), "--quiet"]
    call += ["--run-dir", str(run_dir), "--devices", str(devices), "--compilation-cache", str(folder / "cache")]
    return [*call, "--resume"] if resume else call


def run_until(call: list[str], seconds: float | None) -> tuple[int, str]:
    """Run a command, kill it after some seconds, and return its exit code and its last words."""
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[1]
    return process.returncode, said[-300:]


def parameters(run_dir: Path) -> dict[str, np.ndarray]:
    """Return the parameters at the end of a run."""
    return {name: np.asarray(value) for name, value in runs.load(run_dir).state.params.items()}


def main() -> None:
    """Kill, resume and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    jax.config.update("jax_num_cpu_devices", 2)
    draw = random.Random(arguments.seed)
    row = {"kills": 0, "begun": 0, "saved": 0, "same_devices": 0, "exact": 0, "fewer_devices": 0, "close": 0}
    lost, largest, number = [], 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_study(folder, **OPTIONS)
        subprocess.run(command(folder, folder / "warm", 2, False), check=True)  # compiles
        begin = time.monotonic()
        subprocess.run(command(folder, folder / "whole", 2, False), check=True)
        length = time.monotonic() - begin
        whole = runs.read_run(folder / "whole")
        expected = parameters(folder / "whole")
        while row["kills"] < arguments.kills:
            run_dir, number = folder / f"run{number}", number + 1
            devices, kills = 2, 0
            while True:
                begun = (run_dir / "config.json").exists()
                left = kills < MOST and row["kills"] < arguments.kills
                moment = draw.uniform(0, length) if left else None
                code, said = run_until(command(folder, run_dir, devices, begun), moment)
                if code != -signal.SIGKILL:
                    break
                kills += 1
                devices = 2 if number % 2 else 1
                row["kills"] += 1
                row["begun"] += (run_dir / "config.json").exists()
                row["saved"] += any(path.name.isdecimal() for path in (run_dir / "checkpoints").glob("*"))
            if not kills:
                continue
            row["same_devices" if devices == 2 else "fewer_devices"] += 1
            if code:
                lost.append({"run": number, "kills": kills, "devices": devices, "said": said})
                continue
            found = runs.read_run(run_dir)
            ok = found.summary["communication"] == whole.summary["communication"]
            if devices == 2:
                ok &= found.summary["state_sha256"] == whole.summary["state_sha256"]
                row["exact"] += ok
            else:
                there = parameters(run_dir)
                off = max(float(np.abs(there[n] - expected[n]).max()) for n in expected)
                largest, ok = max(largest, off), ok and off < TOLERANCE
                row["close"] += ok
            if not ok:
                lost.append({"run": number, "kills": kills, "devices": devices, "said": "another end"})
            print(json.dumps(row), file=sys.stderr, flush=True)
    print(json.dumps({**row, "runs": number, "largest_difference": largest, "seconds_unbroken": length, "lost": lost}))
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
