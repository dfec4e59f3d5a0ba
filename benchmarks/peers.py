"""Time the same federated round in this engine and in other simulators, each in its own environment.

    python benchmarks/peers.py [--workload a b c d] [--peers engine pytorch pfl flower fedjax] [--turns 7] [--cores 2]

Workloads: (a) 32 clients x 5 steps x batch 10, images 32x32x3, two convolutions and two dense layers; (b) MF+FW+MIM
with ResNet-18 on s1 and s2, 60x60, 16 clients x 4 steps x batch 16; (c) 1,000 clients x 2 steps x batch 8, an MLP on
series; (d) labels by pixel, MF with a U-Net on ResNet-18, s1 and s2, 64x64, 8 clients x 2 steps x batch 8 (engine and
pytorch only). All peers read the same data, weights and batch order from files, train in float32 with plain SGD, and
must end their first round with the engine's update. Their variants take turns, of three seconds at least; a variant's
time is the median of its turns' means, a peer's that of its fastest variant. Flower starts Ray anew for each of its
turns, of three rounds (two where clients are many) of which the first is not counted. The engine's variant ``float32``
has no product of bfloat16; ``auto`` has, where matrix units make three of them faster than one of float32.

A peer's environment is made once, by pip, in ``--environments``. A peer that cannot be installed or cannot do a
workload is a row with the reason. Exit code 1 says that a peer computed something else.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv

import numpy as np
from machine import processor

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peer_workers"))
import workloads

WORKERS = pathlib.Path(__file__).resolve().parent / "peer_workers"
TORCH = ["torch==2.13.0", "numpy==2.4.6"]
# What each peer's environment is made of; the engine runs where this script runs.
REQUIREMENTS = {
    "pytorch": TORCH,
    "pfl": ["pfl==0.6.0", *TORCH],
    "flower": ["flwr[simulation]==1.41.0", *TORCH],
    "fedjax": ["fedjax==0.0.17", "jax==0.5.3", "jaxlib==0.5.3"],
}
SCRIPTS = {"engine": "engine", "pytorch": "pytorch_loop", "pfl": "pfl_worker", "flower": "flower_worker"}
SCRIPTS |= {"fedjax": "fedjax_worker"}
# Of the update of a variable, relative to its largest value; or three times what moving the last bit of all initial
# weights changes, where that is more. With ReLUs on random images it is: float64 lies as far from any of the peers.
TOLERANCE = 1e-3


def variants(peer: str, name: str, cores: int) -> list[str]:
    """Return the variants of a peer that are timed on a workload."""
    if peer == "engine":
        return ["auto", "chunk64"] if name == "c" else ["auto", "float32"]
    if peer == "pytorch":
        found = ["threads", "threads+compile"] if name == "c" else ["threads", "threads+nchw", "threads+compile"]
        found += ["processes", "processes+compile"] if cores > 1 else []
        if name == "c":
            found += ["threads+vmap100", "threads+vmap250"]
            found += ["processes+vmap100", "processes+vmap250"] if cores > 1 else []
        return found
    if peer == "pfl":
        return ["threads", "processes"] if cores > 1 else ["threads"]
    if peer == "fedjax":
        return ["jit", "pmap"] if cores > 1 else ["jit"]
    return ["run_simulation", "start_simulation"]


def environment(peer: str, root: pathlib.Path) -> str:
    """Return the Python of a peer's environment, made if it is not there or not complete.

    Raises:
        RuntimeError: when pip cannot install it.
    """
    if peer == "engine":
        return sys.executable
    folder, wanted = root / peer, "\n".join(REQUIREMENTS[peer])
    python, complete = folder / "bin" / "python", folder / "complete.txt"
    if not complete.exists() or complete.read_text() != wanted:
        print(f"making {folder} ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[peer]]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError(f"pip install {' '.join(REQUIREMENTS[peer])}: {(errors or ['failed'])[-1][:300]}")
        complete.write_text(wanted)
    return str(python)


@dataclasses.dataclass
class Worker:
    """Hold one variant of a peer, a process that runs a round whenever asked.

    Attributes:
        peer: its name.
        variant: of it.
        process: its process.
        told: the line it said when it was ready.
        seconds: of a round in each of its turns.
        taken: seconds that its turns took.
    """

    peer: str
    variant: str
    process: subprocess.Popen
    log: pathlib.Path
    told: dict = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    taken: float = 0.0

    @classmethod
    def start(cls, peer: str, variant: str, python: str, folder: pathlib.Path, options: list[str]) -> "Worker":
        """Start a worker and wait until its first round is done."""
        log = folder / f"{peer}_{variant}.log"
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if peer == "engine":
            environ["PYTHONPATH"] = str(WORKERS.parent.parent)
        command = [python, str(WORKERS / f"{SCRIPTS[peer]}.py"), options[0], variant, str(folder), *options[1:]]
        pipe = subprocess.PIPE
        with log.open("w") as errors:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environ)
        worker = cls(peer, variant, process, log)
        worker.told = worker._line()
        return worker

    def _line(self) -> dict:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if line:
            return json.loads(line)
        last = [text for text in self.log.read_text(errors="replace").splitlines() if text.strip()]
        return {"error": f"the worker ended with {self.process.wait()}: {(last or ['no message'])[-1][:300]}"}

    def turn(self) -> None:
        """Run a round."""
        assert self.process.stdin is not None
        begin = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # its last words are read below
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        said = self._line()
        self.taken += time.perf_counter() - begin
        if "error" in said:
            self.told = said
        else:
            self.seconds.append(said["seconds"])

    def stop(self) -> None:
        """End the process."""
        try:
            self.process.communicate(timeout=30)  # closes its standard input, upon which it ends
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.communicate()


def difference(work: workloads.Workload, folder: pathlib.Path, ours: str, theirs: str) -> dict[str, float]:
    """Return the largest difference between two updates, relative to the largest value of its variable.

    What a float32 of the weights' size loses in every step is taken off first.

    Returns:
      ``parameters``, of their change, and ``statistics``, of running moments and prototypes as they are.
    """
    start, worst = workloads.read(folder, "initial"), {"parameters": 0.0, "statistics": 0.0}
    with np.load(ours) as ours_file, np.load(theirs) as theirs_file:
        for name in ours_file.files:
            trained = name in start and not workloads.is_moment(name)
            kind = "parameters" if trained else "statistics"
            if name not in theirs_file.files or not np.isfinite(theirs_file[name]).all():
                worst[kind] = float("inf")
                continue
            mine, other = ours_file[name], theirs_file[name]
            scale = np.abs(mine - start[name] if trained else mine).max()
            stored = work.steps * np.spacing(np.abs(mine).max()) if trained else 0.0
            gap = max(float(np.abs(mine - other).max() - stored), 0.0) / max(float(scale), 1e-12)
            worst[kind] = max(worst[kind], gap)
    return worst


def measure(work: workloads.Workload, args: argparse.Namespace) -> list[dict]:
    """Return a row for each variant of each peer on a workload."""
    rows, workers = [], []
    with tempfile.TemporaryDirectory(prefix="peers_") as name:
        folder = pathlib.Path(name)
        workloads.write(work, folder)
        sizes = {"--cores": args.cores, "--clients": work.clients, "--steps": work.steps}
        options = [work.name, *(str(part) for pair in sizes.items() for part in pair)]
        for peer in dict.fromkeys(["engine", *args.peers]):  # the engine first: it says in which order samples come
            try:
                python = environment(peer, args.environments)
            except RuntimeError as error:
                rows.append({"peer": peer, "variant": "", "error": str(error)})
                continue
            for variant in variants(peer, work.name, args.cores):
                workers.append(Worker.start(peer, variant, python, folder, options))
                print(f"({work.name}) {peer} {variant}: {workers[-1].told}", file=sys.stderr)
        alive = [w for w in workers if "error" not in w.told]
        for turn in range(args.turns):
            for i in range(len(alive)):
                worker = alive[(turn + i) % len(alive)]
                if "error" not in worker.told and worker.taken < args.patience:
                    worker.turn()
        reference = workers[0].told.get("update")
        for worker in workers:
            worker.stop()
            rows.append(row(work, folder, worker, reference))
    return rows


def row(work: workloads.Workload, folder: pathlib.Path, worker: Worker, reference: str | None) -> dict:
    """Return what a worker's turns say."""
    out: dict = {"peer": worker.peer, "variant": worker.variant}
    if "error" in worker.told:
        return out | {"error": worker.told["error"]}
    middle = statistics.median(worker.seconds)
    out["ms_per_client_step"] = round(middle * 1e3 / (work.clients * work.steps), 4)
    out["seconds"] = [round(s, 4) for s in worker.seconds]
    if reference:
        gaps = difference(work, folder, reference, worker.told["update"])
        rounding = difference(work, folder, reference, str(folder / "rounded.npz"))
        out |= {"difference": gaps, "rounding": rounding}
        out["same"] = all(gaps[kind] <= max(TOLERANCE, 3 * rounding[kind]) for kind in gaps)
    return out | {k: v for k, v in worker.told.items() if k != "update"}


def host(cores: int) -> dict:
    """Return what ran: processor, cores used, load, versions, date."""
    date = datetime.date.today().isoformat()
    load = round(os.getloadavg()[0], 2)
    return {"cpu": processor(), "cores": cores, "load": load, "python": platform.python_version(), "date": date}


def print_table(rows: list[dict]) -> None:
    """Print milliseconds a client-step, and how many times the engine's fastest that is; * marks a peer's fastest."""
    print(f"{'workload':9s}{'peer':9s}{'variant':22s}{'ms/client-step':>15s}{'x engine':>10s}{'difference':>12s}")
    for name in dict.fromkeys(r["workload"] for r in rows):
        timed = [r for r in rows if r["workload"] == name and "error" not in r]
        fastest: dict[str, float] = {}
        for r in timed:
            fastest[r["peer"]] = min(fastest.get(r["peer"], float("inf")), r["ms_per_client_step"])
        for r in (r for r in rows if r["workload"] == name):
            start = f"{name:9s}{r['peer']:9s}{r['variant']:22s}"
            if "error" in r:
                print(f"{start} {r['error']}")
                continue
            ms = r["ms_per_client_step"]
            ratio = f"{ms / fastest['engine']:9.2f}" if "engine" in fastest else f"{'':9s}"
            mark = "*" if ms == fastest[r["peer"]] else " "
            gap = max(r["difference"].values()) if "difference" in r else float("nan")
            wrong = "" if r.get("same", True) else "  NOT THE SAME WORK"
            print(f"{start}{ms:14.3f}{mark}{ratio} {gap:12.1e}{wrong}")


def main() -> None:
    """Measure, print JSON rows and a table, and append the rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", default=list(workloads.WORKLOADS), choices=workloads.WORKLOADS)
    parser.add_argument("--peers", nargs="+", default=list(SCRIPTS), choices=SCRIPTS)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clients", type=int, default=0, help="fewer clients than the workload's, for a quick look")
    parser.add_argument("--steps", type=int, default=0, help="fewer local steps, for a quick look")
    parser.add_argument(
        "--patience", type=float, default=600, help="seconds of turns after which a variant has no more"
    )
    parser.add_argument("--environments", type=pathlib.Path, default=pathlib.Path.home() / ".cache/mmfl_jax/peers")
    parser.add_argument("--output", type=pathlib.Path, default=None, help="append the rows to this file")
    args = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    if args.turns < 1:
        parser.error(f"--turns {args.turns}: at least 1")
    if not 0 < args.cores <= len(allowed):
        parser.error(f"--cores {args.cores}: this process may use {len(allowed)}")
    os.sched_setaffinity(0, allowed[: args.cores])  # the workers inherit it
    common, rows = host(args.cores), []
    for name in args.workload:
        work = workloads.workload(name, args.clients, args.steps)
        sizes = {"clients": work.clients, "steps": work.steps, "batch": work.batch}
        new = [{"workload": name, **sizes, **found, **common} for found in measure(work, args)]
        lines = [json.dumps(row) for row in new]
        print(*lines, sep="\n", flush=True)
        if args.output:
            with args.output.open("a") as file:
                file.writelines(line + "\n" for line in lines)
        rows += new
    print_table(rows)
    if any(line.get("same") is False for line in rows):
        sys.exit("a peer's update differs from the engine's: its time says nothing")


if __name__ == "__main__":
    main()
