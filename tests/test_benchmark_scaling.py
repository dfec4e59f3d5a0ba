"""The benchmarks of rounds: waste against counts by hand, and a run where only the engine's needs are installed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from federations import ragged_federation

from mmfl_jax import Study

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_waste_of_a_layout_by_hand(benchmark):
    # Dealt largest first to the modality with fewest samples: 10 + 5 + 4 steps for the one, 8 + 7 + 3 for the other.
    sizes = [32 * n for n in (10, 8, 7, 5, 4, 3)]
    row = lambda chunk, devices: benchmark("scaling").padding_row("some", sizes, chunk, devices)
    assert row(1, 1)["client_steps"] == 37
    assert row(1, 1)["padding_waste"] == row(1, 1)["device_waste"] == 0
    # 10 beside 5 and then 4, 8 beside 7 and then 3, two clients wide.
    assert row(2, 1)["padding_waste"] == row(2, 1)["device_waste"] == round(1 - 37 / 40, 4)
    # One client each for six of eight devices: all wait for the one with 10 steps.
    assert row(1, 8)["padding_waste"] == 0
    assert row(1, 8)["device_waste"] == round(1 - 37 / 80, 4)
    # A chunk is never wider than the clients of its group.
    assert row(8, 1)["padding_waste"] == round(1 - 37 / (3 * 10 + 3 * 8), 4)
    assert row(0, 1)["seats"] == [2, 2]
    assert row(0, 1)["padding_waste"] < 0.1


def test_real_layouts_are_those_of_the_archive(benchmark):
    layouts = benchmark("scaling").layouts()
    assert [len(sizes) for sizes in layouts.values()] == [10, 31]
    assert [sum(sizes) for sizes in layouts.values()] == [480_038, 480_038]


def test_costs_compare_configurations(benchmark, monkeypatch):
    module = benchmark("costs")
    monkeypatch.setattr(module, "CONFIGURATIONS", {"fedavg": "unified", "mf": "mf"})
    federation = ragged_federation([20, 30, 9], [("s1",), ("s2",), ("s1",)])
    study = Study.of(batch_size=16, local_steps=2, width=8, rounds=2, client_optimizer="sgd")
    fedavg, mf = module.measure(study, federation, scored=True)
    # One encoder over 5 x (2 + 3) values against one over 5 x 2 or 5 x 3; all else is alike.
    assert fedavg["bytes_up_per_round"] - mf["bytes_up_per_round"] == 4 * 8 * (3 * 25 - 10 - 15 - 10)
    assert mf["flops_per_round_to_fedavg"] == round(mf["flops_per_round"] / fedavg["flops_per_round"], 4) < 1
    assert mf["flops_per_client"] == mf["flops_per_round"] / 3
    assert mf["client_steps"] == 6
    assert fedavg["f1_points_gained"] == 0
    gained = mf["f1_points_gained"]
    assert gained == pytest.approx(100 * (mf["f1_micro"] - fedavg["f1_micro"]), abs=0.005)
    expected = round((mf["flops_per_round_to_fedavg"] - 1) / gained, 5) if gained > 0 else None
    assert mf["extra_flops_per_f1_point"] == expected
    module.print_table([fedavg, mf])


ABSENT = ("rasterio", "tensorflow_datasets", "tyro", "pyarrow", "matplotlib")

SCRIPT = """
import runpy, sys
sys.modules.update(dict.fromkeys({absent}))  # None: import raises ModuleNotFoundError
sys.path.insert(0, {benchmarks!r})
sys.argv = ["scaling.py", "--models", "mlp", "--clients", "4", "--chunks", "2", "--steps", "1", "--turns", "1"]
sys.argv += ["--devices", "1", "--output", {output!r}]
runpy.run_path({benchmarks!r} + "/scaling.py", run_name="__main__")
"""


def test_scaling_runs_without_readers_and_command_line(tmp_path):
    output = tmp_path / "rows.jsonl"
    script = SCRIPT.format(absent=ABSENT, benchmarks=str(BENCHMARKS), output=str(output))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert sum(row["benchmark"] == "padding" for row in rows) == 24
    assert {(row["layout"], row["devices"]) for row in rows[:-1]} == {
        (layout, devices) for layout in ("country", "country+season") for devices in (1, 8)
    }
    (row,) = (row for row in rows if row["benchmark"] == "scaling")
    assert row["clients"] == 4
    assert row["chunk_sizes"] == [2, 2]
    assert row["compilations_after_first_round"] == 0
    assert row["seconds_per_round"] > 0
    assert row["temporary_bytes"] > 0
    assert {"device", "cores", "jax", "flax", "python", "date"} <= set(row)
