"""What a machine's memory can hold."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfl_jax import memory
from mmfl_jax.errors import UserError


def test_the_line_names_both_sizes(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 24 * 2**30)
    memory.check_fits("batch", 24 * 2**30)
    with pytest.raises(UserError) as error:
        memory.check_fits("batch 1000000000", 671 * 2**30)
    assert str(error.value) == "batch 1000000000: 671 GiB of memory needed, this machine has 24.0 GiB"


@given(st.integers(0, 10**400))
def test_any_size_can_be_read(size):
    number, unit = memory.readable(size).split()
    worth = float(number.replace(",", "")) * 1024 ** memory.UNITS.index(unit)
    assert worth == float("inf") or abs(worth - size) <= 0.06 * size


def test_a_limit_of_the_process_counts():
    limit = 3 * 2**30
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); "
        "from mmfl_jax.memory import available_bytes; print(available_bytes())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) <= limit < memory.available_bytes() or memory.available_bytes() <= limit


def test_a_container_has_what_it_was_given(monkeypatch):
    texts = {"/proc/self/cgroup": "0::/batch/job\n", "/sys/fs/cgroup/batch/memory.max": "1048576\n"}
    texts["/sys/fs/cgroup/batch/job/memory.max"] = "max\n"

    def read_text(path):
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(memory.Path, "read_text", read_text)
    assert memory.available_bytes() == 2**20
