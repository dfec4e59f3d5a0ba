"""One round on eight devices equals the round on one, and the round under ``jax.pmap``."""

import pytest
from devices import run_on_devices

SCRIPT = """
import dataclasses, pathlib, tempfile
import jax, numpy as np
from federations import ragged_federation, simulation
from test_round import assert_close, in_order
from mmfl_jax.engine.mesh import AXIS
from mmfl_jax.engine.round import state_specs, train_device
from mmfl_jax.engine.server import finish
from mmfl_jax.runs.checkpoints import Checkpoints

assert jax.device_count() == 8
SIZES = [6, 7, 17, 300, 8, 40, 5, 9, 60, 9, 12]  # of clients of one sample, norms make chaos
HELD = {held}
federation = ragged_federation(SIZES, (HELD * len(SIZES))[: len(SIZES)])
options = dict(method="mf+fw+mim", private="norm", chunk_size={chunk}, stream_mb={stream})
one = simulation(federation, devices=1, **options)
eight = simulation(federation, devices=8, devices_per_client=1, **options)
assert eight.mesh.size == 8
if not {stream}:  # each device has its own clients, and nobody else's
    for data in eight.execution.data:
        assert all(not x.sharding.is_fully_replicated for x in jax.tree.leaves(data))
    assert sum(int((data.sizes > 0).sum()) for data in eight.execution.data) == len(SIZES)
if {pmap}:
    members = eight.cohort(0).members
    plans, _ = eight.execution.planner.lay(members)
    most = tuple(eight.execution.planner.most)
    held = sum((plan.clients >= 0).sum(axis=1) for plan in plans)
    assert (held > 0).all()  # every device has somebody to train
    each = lambda tree: jax.tree.map(lambda x: np.asarray(x).reshape(8, -1, *x.shape[1:]), tree)
    state = jax.tree.map(np.array, eight.state)
    parts = dataclasses.replace(state, clients=each(state.clients))
    mapped = dataclasses.replace(jax.tree.map(lambda _: None, state_specs()), clients=0)
    key = jax.random.fold_in(jax.random.key(0), 0)
    device = jax.pmap(
        lambda state, data, plans, key: train_device(eight.program, state, data, plans, key, most),
        axis_name=AXIS,
        in_axes=(mapped, 0, 0, None),
    )
    kept, sums = device(parts, each(jax.device_get(eight.execution.data)), plans, key)
    sums = jax.tree.map(lambda x: x[0], jax.device_get(sums))
    mapped, _ = finish(eight.program, jax.tree.map(jax.numpy.asarray, state), sums, jax.random.key(0))
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), kept)
    mapped = dataclasses.replace(mapped, clients=flat)
for number in range(2):
    row, alone = eight.run_round(), one.run_round()
    assert row["client_steps"] == alone["client_steps"] == sum(-(-n // 16) for n in SIZES)
    assert row["imbalance"] > 1 > row["idle_devices"] > 0
    if {pmap} and not number:
        assert_close(mapped, jax.device_get(eight.state))
    assert_close(in_order(eight), in_order(one), (1e-5, 1e-4)[number])
for clients in zip(eight.evaluate_clients(), one.evaluate_clients()):  # what each keeps is found at its home
    assert clients[0] == clients[1]
folder = pathlib.Path(tempfile.mkdtemp())
saving = Checkpoints(folder, eight.placement)
saving.save(2, eight.state, 0.0)
saving.close()
for devices in (1, 3, 4, 8):  # what clients kept goes back to any number of devices
    fewer = eight if devices == 8 else simulation(federation, devices=devices, devices_per_client=1, **options)
    number, fewer.state = Checkpoints(folder, fewer.placement, read_only=True).restore(fewer.state)
    jax.tree.map(np.testing.assert_array_equal, in_order(fewer), in_order(eight))
    assert number == fewer.round_number == 2
print("equal")
"""


@pytest.mark.parametrize(
    ("held", "chunk", "pmap", "stream"),
    [([("s1",), ("s2",)], 1, True, 0), ([("s1",), ("s1", "s2")], 2, False, 0), ([("s1",), ("s2",)], 2, False, 1)],
    ids=["single, pmap", "mixed", "streamed"],
)
def test_eight_devices_equal_one(held, chunk, pmap, stream):
    assert run_on_devices(8, SCRIPT.format(held=held, chunk=chunk, pmap=pmap, stream=stream)) == "equal"


SPANNED = """
import jax, numpy as np
from federations import ragged_federation, simulation
from test_round import assert_close, in_order

SIZES = [6, 30, 17, 90, 8]
HELD = {held}
federation = ragged_federation(SIZES, (HELD * len(SIZES))[: len(SIZES)], **{archive})
options = {options}
one = simulation(federation, devices=1, **options)
spanned = simulation(federation, devices=4, devices_per_client=2, **options)
assert spanned.mesh.devices.shape == (2, 2)
assert spanned.program.span == 2
images = [x.values for data in spanned.execution.data for x in data.images.values()] if not {stream} else []
assert all(len(x.addressable_shards[0].data) <= len(x) // 4 for x in images)  # each device has its share
row, alone = spanned.run_round(), one.run_round()
assert abs(row["loss"] - alone["loss"]) < 1e-5 * abs(alone["loss"])
assert_close(in_order(spanned), in_order(one), 1e-5, kept=1e-4)
scores = [sim.evaluate() for sim in (spanned, one)]
assert scores[0].keys() == scores[1].keys()
assert spanned.cost()["flops_per_round"] == one.cost()["flops_per_round"]
print("equal")
"""
SINGLE, BOTH = [("s1",), ("s2",)], [("s1", "s2")]
IMAGES = {"shapes": {"s1": (12, 12, 2), "s2": (12, 12, 3)}}


@pytest.mark.parametrize(
    ("held", "archive", "options"),
    [
        (SINGLE, {}, {"method": "mf+fw+mim", "private": "norm", "algorithm": "scaffold"}),
        (BOTH, {}, {"method": "mf+mim", "mim_positives": "pairs", "algorithm": "moon", "stream_mb": 1}),
        (SINGLE, IMAGES, {"method": "mf+fw+mim", "encoder": "resnet6", "flips": True, "crop": 8}),
        (BOTH, IMAGES, {"method": "separate", "encoder": "resnet6", "algorithm": "ditto"}),
        (
            SINGLE,
            {"task": "pixel"},
            {"method": "mf+fw+mim", "encoder": "resnet6", "flips": True, "crop": 4, "dice_weight": 0.5},
        ),
    ],
    ids=["series", "pairs, streamed", "images", "separate", "pixels"],
)
def test_clients_over_several_devices_equal_one(held, archive, options):
    script = SPANNED.format(held=held, archive=archive, options=options, stream="stream_mb" in options)
    assert run_on_devices(4, script) == "equal"


NO_THREAD_LEFT = """
import faulthandler; faulthandler.dump_traceback_later(60, exit=True)
import os; os.cpu_count = lambda: 1
import jax, numpy as np
from mmfl_jax.cpu_devices import give_threads
give_threads()
assert os.environ["PJRT_NPROC"] == "4"
mesh = jax.sharding.Mesh(jax.devices(), "x")
rows = [jax.device_put(np.ones((6, 5 + k), np.float32), jax.NamedSharding(mesh, jax.P("x"))) for k in range(30)]
total = jax.jit(lambda v: v.sum(axis=0), out_shardings=jax.NamedSharding(mesh, jax.P()))
third = jax.jit(lambda v: v / 3)
for _ in range(100):
    jax.device_get([third(total(v)) for v in rows])
"""


def test_programs_that_wait_for_a_collective_leave_it_threads():
    run_on_devices(2, NO_THREAD_LEFT)
