"""The engine runs where only jax, flax (which brings rich), optax, orbax and numpy are installed."""

import json
import subprocess
import sys
from pathlib import Path

ABSENT = (
    "rasterio",
    "tensorflow_datasets",
    "tyro",
    "matplotlib",
    "pyarrow",
    "sklearn",
    "tensorboard",
    "lmdb",
    "array_record",
)

SCRIPT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
sys.path.insert(0, {tests!r})
import mmfl_jax as mm
from federations import MemoryArchive

federation = mm.Federation.split(MemoryArchive(), "by:region", clients=4)
study = mm.Study.of(method="mf", rounds=1, width=8, client_optimizer="sgd")
print(sorted(mm.Simulation(study, federation).run({run_dir!r}, quiet=False)["evaluation"]))
assert not set({absent}) & set(sys.modules)
"""


def test_engine_runs_without_readers_command_line_and_figures(tmp_path):
    run_dir = tmp_path / "run"
    script = SCRIPT.format(absent=ABSENT, tests=str(Path(__file__).parent), run_dir=str(run_dir))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "['s1', 's1+s2', 's2']"
    assert "no report.html: matplotlib is not installed" in done.stdout
    assert {path.name for path in run_dir.iterdir()} == {
        "config.json",
        "federation.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
    }
    assert json.loads((run_dir / "summary.json").read_text())["rounds"] == 1
