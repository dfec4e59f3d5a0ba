"""A process of its own for every topology: XLA aborts on some, and reads its settings when it is loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mmfl_jax.errors import UserError
from mmfl_jax.planner.chips import Topology
from mmfl_jax.study import Study

#: So that libtpu asks nobody which machine this is. It locks itself against others on a host's chips, of which a plan
#: uses none.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}
_LOCK = Path("/tmp/libtpu_lockfile")


def planned(reference: str, study: Study, topology: str) -> dict:
    """Return the fields of :class:`mmfl_jax.planner.plan.Plan` for a topology.

    Args:
      reference: name or file that the study was loaded from.
      study: the options.
      topology: such as ``v5e:16x16``.

    Raises:
      UserError: for a topology that there is not or XLA aborts on, without libtpu, or for a study that does not fit.
    """
    Topology.read(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology needs libtpu, which compiles for TPUs: pip install 'mmfl_jax[tpu]'")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(study.to_json())
        command = [sys.executable, "-m", "mmfl_jax.planner", reference, str(config), topology]
        done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--topology {topology}: {_ending(done.returncode, done.stderr)}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise UserError(_locked() if "lockfile" in answer["error"] else answer["error"])
    return answer["plan"]


def _ending(code: int, said: str) -> str:
    """Return in one line how a process ended."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # XLA's fatal lines begin with F; below them it prints its stack.
    fatal = [line for line in lines if line.startswith("F") and "]" in line]
    why = fatal[-1].partition("] ")[2] if fatal else lines[-1] if lines else "it said nothing"
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return f"compiling for it ended {how}: {why}"


def _locked() -> str:
    """Return who holds libtpu's lock."""
    holder = "another process"
    try:
        inode = str(_LOCK.stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[5].endswith(f":{inode}"):
                name = Path(f"/proc/{fields[4]}/cmdline").read_text().replace("\0", " ").strip()
                holder = f"process {fields[4]} ({name[:80]})"
    except (OSError, IndexError):
        pass
    return f"libtpu is in use by {holder}; wait for its end ({_LOCK})"
