"""What clients keep lies on the host, and only a round's clients bring theirs: nothing else changes."""

import jax
import numpy as np
import pytest
from devices import run_on_devices
from federations import ragged_federation, simulation
from test_round import assert_close, in_order

from mmfl_jax.engine.host_memory import rows_on_host
from mmfl_jax.errors import UserError
from mmfl_jax.federation.placement import Placement
from mmfl_jax.runs.checkpoints import Checkpoints

SIZES = [12, 7, 17, 40, 8, 33, 9]
OPTIONS = {"algorithm": "scaffold", "method": "mf", "private": "norm", "participation": "4"}


@pytest.fixture(scope="module")
def federation():
    return ragged_federation(SIZES, ([("s1",), ("s2",)] * 4)[:7])


def both(federation, **options):
    return [simulation(federation, **{**OPTIONS, "client_memory": where, **options}) for where in ("device", "host")]


@pytest.mark.parametrize(
    "options", [{}, {"stream_mb": 1, "chunk_size": 2}, {"algorithm": "fedavg+top_k:0.5", "participation": "all"}]
)
def test_rounds_are_the_same(federation, options):
    device, host = both(federation, **options)
    kept = jax.tree.leaves(host.state.clients)
    assert kept
    assert all(isinstance(rows, np.ndarray) for rows in kept)
    for _ in range(4):
        rows = [sim.run_round() for sim in (device, host)]
        assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-6)
        assert_close(in_order(host), in_order(device), 1e-6)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    scores = [sim.evaluate() for sim in (device, host)]
    jax.tree.map(same, *scores)
    assert device.evaluate_clients() == host.evaluate_clients()
    # Rows of the cohort are all that a round is given.
    given = host.execution.memory.bring(host.state, host.execution.planner.lay(host.cohort(4).members)[0])
    for rows, places in zip(given.clients, host.execution.planner.capacity):
        assert {x.shape[0] for x in jax.tree.leaves(rows)} == {places}


def test_checkpoints_go_from_one_to_the_other(federation, tmp_path):
    device, host = both(federation)
    for sim, other, folder in ((device, host, tmp_path / "a"), (host, device, tmp_path / "b")):
        sim.run_round()
        checkpoints = Checkpoints(folder, sim.placement)
        checkpoints.save(1, sim.state, 0.0)
        expected = in_order(sim)
        sim.run_round()  # what is written behind is what was there
        checkpoints.close()
        after = in_order(sim)
        reader = Checkpoints(folder, other.placement, read_only=True)
        _, other.state = reader.restore(other.state)
        jax.tree.map(np.testing.assert_array_equal, in_order(other), expected)
        other.run_round()
        assert_close(in_order(other), after, 1e-6)
        _, sim.state = reader.restore(sim.state)  # what was read ahead of a third round is not used
        sim.run_round()
        assert_close(in_order(sim), after, 1e-6)


SCRIPT = """
from federations import ragged_federation, simulation
from test_host_memory import OPTIONS, SIZES, both
from test_round import assert_close, in_order
federation = ragged_federation(SIZES, ([("s1",), ("s2",)] * 4)[:7])
for options in ({"devices": 4, "devices_per_client": 1}, {"devices": 4, "devices_per_client": 2}):
    device, host = both(federation, **options)
    for _ in range(3):
        device.run_round(), host.run_round()
    assert_close(in_order(host), in_order(device), 1e-6)
one = simulation(federation, **OPTIONS | {"devices": 1, "participation": "stratified:2:4"})
two = simulation(federation, **OPTIONS | {"devices": 2, "devices_per_client": 1, "participation": "stratified:2:4"})
assert two.execution.planner.capacity[0] <= 2
for number in range(3):
    row = two.run_round()
    one.run_round()
    homes = [homes.device[m] for homes, m in zip(two.placement.groups, two.cohort(number).members)]
    assert sorted(sum((h.tolist() for h in homes), [])) == [0, 0, 1, 1]
    assert_close(in_order(two), in_order(one), 1e-4, kept=1e-3)
print("equal")
"""


def test_on_several_devices():
    assert run_on_devices(4, SCRIPT).strip().endswith("equal")


def test_no_room_on_disk(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    homes = Placement.of([np.ones(3)], [np.ones(3)], 1).groups[0]
    with pytest.raises(UserError, match=r"--client-memory host: 12 bytes of what .* do not fit in .*No space"):
        rows_on_host({"a": np.float32(1)}, homes)


def test_auto_takes_the_host_where_devices_have_no_room(federation, monkeypatch):
    monkeypatch.setattr("mmfl_jax.rounds.device_bytes", lambda mesh: 1000)
    assert isinstance(jax.tree.leaves(simulation(federation, **OPTIONS).state.clients)[0], np.ndarray)
    monkeypatch.undo()
    assert isinstance(jax.tree.leaves(simulation(federation, **OPTIONS).state.clients)[0], jax.Array)
