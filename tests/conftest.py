"""What every test sees: one CPU device unless a process asks for more, and programs that are compiled quickly."""

import logging
import os
import signal
from importlib.metadata import version

import pytest

logging.getLogger("absl").setLevel(logging.ERROR)

# Tests compile many small programs and run each a few times: without optimisation they take half as long. Tests that
# are called with XLA_FLAGS, empty for instance, compile as that says; continuous integration does both.
_QUICK = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # newer ones do not know it
    _QUICK += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(_QUICK))


@pytest.fixture
def heard(number):
    """Skip the test where the signal that it sends is ignored by whatever started the tests."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests were started by something that ignores it, such as nohup")
