"""One round on eight devices equals the round on one, and the round under ``jax.pmap``."""

import pytest
from devices import run_on_devices

SCRIPT = """
import jax, numpy as np
from federations import ragged_federation, simulation
from test_round import assert_close
from mmfl_jax.engine.round import AXIS, keep, train_device
from mmfl_jax.engine.server import finish

assert jax.device_count() == 8
SIZES = [1, 3, 17, 300, 8, 40, 5, 2, 60, 9, 12]
HELD = {held}
federation = ragged_federation(SIZES, (HELD * len(SIZES))[: len(SIZES)])
options = dict(method="mf+fw+mim", private="norm", chunk_size={chunk})
one = simulation(federation, devices=1, **options)
eight = simulation(federation, devices=8, **options)
assert eight.mesh.size == 8
if {pmap}:
    members = eight.cohort(0).members
    plans, _ = eight.execution.planner.lay(members)
    most = tuple(eight.execution.planner.most)
    assert (sum(plan.chunks for plan in plans) > 0).all()  # every device has somebody to train
    state = jax.tree.map(np.array, one.state)
    key = jax.random.fold_in(jax.random.key(0), 0)
    device = jax.pmap(
        lambda state, data, plans, key: train_device(eight.program, state, data, plans, key, most),
        axis_name=AXIS,
        in_axes=(None, None, 0, None),
    )
    kept, sums = device(state, jax.device_get(eight.execution.data), plans, key)
    sums = jax.tree.map(lambda x: x[0], jax.device_get(sums))
    mapped, _ = finish(eight.program, jax.tree.map(jax.numpy.asarray, state), sums, jax.random.key(0))
    import dataclasses
    clients = keep(jax.tree.map(jax.numpy.asarray, state), plans, jax.device_get(kept))
    mapped = dataclasses.replace(mapped, clients=clients)
row = one.run_round()
assert eight.run_round()["client_steps"] == row["client_steps"] == sum(-(-n // 16) for n in SIZES)
assert_close(eight.state, one.state)
if {pmap}:
    assert_close(mapped, one.state)
print("equal")
"""


@pytest.mark.parametrize(
    ("held", "chunk", "pmap"),
    [([("s1",), ("s2",)], 1, True), ([("s1",), ("s1", "s2")], 2, False)],
    ids=["single, pmap", "mixed"],
)
def test_eight_devices_equal_one(held, chunk, pmap):
    assert run_on_devices(8, SCRIPT.format(held=held, chunk=chunk, pmap=pmap)) == "equal"
