"""The planner: what it reads in a compiled program, what it says of this machine and of TPUs, and what it refuses."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from mmfl_jax import Simulation, Study, UserError, costs
from mmfl_jax.archives.twin.patches import Twin
from mmfl_jax.cli import main
from mmfl_jax.engine.execution import compiler_options
from mmfl_jax.planner import chips, here, pod, process, show
from mmfl_jax.planner import plan as plans
from mmfl_jax.planner.abstract import AbstractRounds
from mmfl_jax.planner.chips import SHAPES, Topology
from mmfl_jax.planner.copies import Copy, copies
from mmfl_jax.planner.hlo import Operation, Place, Text, bytes_of, collective_of

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
TINY = {"encoder": "mlp", "width": 8, "image_size": 8, "samples": 120, "batch_size": 8, "method": "mf", "rounds": 1}
STUDY = Study.of(archive="twin", partition="ds2", **TINY)


@pytest.fixture(autouse=True)
def flags_of_nobody(monkeypatch):
    """Let processes that compile for TPUs do it as users do: the tests' flags are meant for CPUs."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)


# Two groups' loops over chunks, each with one over steps; in the second group's step a loop of five trips.
HLO = """HloModule jit_federated_round, is_scheduled=true

FileNames
1 "/some/where/mmfl_jax/ops/whitening.py"
2 "/venv/site-packages/optax/_src/update.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=3 end_line=3 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=4 end_line=4 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%inner (p: f32[4]) -> f32[4] {
  ROOT %mix = f32[4]{0:T(128)} fusion(%p), kind=kLoop, calls=%f, metadata={op_name="a" stack_frame_id=1}, \
backend_config={"window_config":{"estimated_cycles":"10"}}
}

%step1 (p: f32[4]) -> f32[4] {
  %add = f32[4]{0:T(128)} fusion(%p), kind=kLoop, calls=%f, metadata={op_name="b" stack_frame_id=2}, \
backend_config={"window_config":{"estimated_cycles":"50"}}
  ROOT %five = f32[4]{0:T(128)} while(%add), condition=%c, body=%inner, metadata={op_name="x/while"}, \
backend_config={"known_trip_count":{"n":"5"}}
}

%step0 (p: f32[4]) -> f32[4] {
  %more = f32[4]{0:T(128)} while(%p), condition=%c, body=%inner, metadata={op_name="x"}
  ROOT %sum = f32[16,4,4]{0,2,1:T(4,128)} all-gather(%more), replica_groups={{0,1}}, dimensions={0}
}

%chunks0 (p: f32[4]) -> f32[4] {
  ROOT %w = f32[4]{0:T(128)} while(%p), condition=%c, body=%step0, metadata={op_name="f/shard_map/while/body/while"}
}

%chunks1 (p: f32[4]) -> f32[4] {
  %begin = f32[4]{0:T(128)} copy(%p), metadata={op_name="c" source_file="/a/mmfl_jax/engine/round.py"}, \
backend_config={"window_config":{"estimated_cycles":"7"}}
  ROOT %w = f32[4]{0:T(128)} while(%p), condition=%c, body=%step1, metadata={op_name="f/shard_map/while/body/while"}
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[56,8,8,2]{0,3,2,1:T(2,128)} parameter(0), metadata={op_name="data[0].images[\\'s1\\']"}
  %b = f32[64]{0:T(128)} parameter(1), metadata={op_name="state.clients[0][\\'memory\\']"}
  %c = s32[] parameter(2), metadata={op_name="key"}
  %laid = f32[56,8,8,2]{3,2,1,0:T(2,128)} copy(%a)
  %near = (f32[64]{0:T(128)S(1)}, f32[64]{0:T(128)}, u32[]{:S(2)}) copy-start(%b)
  %w0 = f32[4]{0:T(128)} while(%b), condition=%c, body=%chunks0, metadata={op_name="f/shard_map/while"}
  %w1 = f32[4]{0:T(128)} while(%w0), condition=%c, body=%chunks1, metadata={op_name="f/shard_map/while"}
  %start = f32[100]{0:T(128)} all-reduce-start(%w1), replica_groups={{0,1}}, to_apply=%add
  ROOT %end = f32[100]{0:T(128)} all-reduce-done(%start)
}
"""


def test_cycles_are_counted_where_they_run():
    text = Text(HLO)
    cycles = {}
    for one, times, place in text.placed:
        cycles[place] = cycles.get(place, 0) + one.cycles * times
    # The loop in the first group's step has no known length: once.
    assert cycles == {Place(): 0, Place(0): 0, Place(0, True): 10, Place(1): 7, Place(1, True): 50 + 5 * 10}
    assert text.unknown_loops == 1
    shares = plans.step_shares(text, text.source, lambda one: one.cycles)
    assert shares == {"ops/whitening.py": 60 / 110, "optax/_src/update.py": 50 / 110}


@pytest.mark.parametrize(
    ("kind", "rest", "cycles"),
    [
        ("reshape", "%a)", 2 * 8192 * 1.5e9 / 819e9),
        ("fusion", '%a), backend_config={"window_config":{"estimated_cycles":"7"}}', 7),
        ("get-tuple-element", "%a), index=0", 0),
        ("copy-done", "%a)", 0),
        ("all-reduce", "%a)", 0),
    ],
)
def test_what_xla_gives_no_cycles_goes_through_memory(kind, rest, cycles):
    one = Operation("b", "f32[2048]{0:T(128)}", kind, rest)
    assert chips.CHIPS["v5e"].cycles(one) == pytest.approx(cycles)


def test_a_source_file_is_read_in_both_spellings():
    text = Text(HLO)
    sources = {one.name: text.source(one) for one, _, _ in text.placed}
    assert sources["begin"] == "engine/round.py"
    assert sources["mix"] == "ops/whitening.py"
    assert sources["laid"] == ""


def test_collectives_by_kind_and_place():
    count, size, stepped = plans.collectives(Text(HLO))
    assert count == {"all-gather": 1, "all-reduce": 1}  # the end of one is not another
    assert size == {"all-gather": 128 * 4 * 4 * 4, "all-reduce": 128 * 4}
    assert stepped == {"all-gather": 1}


def test_arguments_and_copies_have_the_padding_of_their_layout():
    text = Text(HLO)
    assert text.arguments == {
        "data[0].images['s1']": 128 * 8 * 8 * 2 * 4,
        "state.clients[0]['memory']": 128 * 4,
        "key": 4,
    }
    # In the new layout rows of two are padded to 128; what goes to a chip's own memory takes nothing of the main one.
    assert copies(text) == [Copy("data[0].images['s1']", 56 * 8 * 8 * 128 * 4, looped=False)]


# Images go into a loop as part of a tuple; there they are turned by a fusion, and a batch is drawn from them.
LOOP = """
%turn (p: f32[8,4]) -> bf16[4,8] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %narrow = bf16[8,4]{1,0} convert(%p0)
  ROOT %turned = bf16[4,8]{1,0} transpose(%narrow), dimensions={1,0}
}

%draw (p: f32[8,4], i: s32[2]) -> f32[2,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = s32[2]{0} parameter(1)
  ROOT %some = f32[2,4]{1,0} gather(%p0, %p1), offset_dims={1}
}

%body (carried: (s32[2], f32[8,4])) -> (s32[2], f32[8,4]) {
  %carried = (s32[2]{0}, f32[8,4]{1,0}) parameter(0)
  %which = s32[2]{0} get-tuple-element(%carried), index=0
  %images = f32[8,4]{1,0} get-tuple-element(%carried), index=1
  %other = bf16[4,8]{1,0} fusion(%images), kind=kLoop, calls=%turn
  %batch = f32[2,4]{1,0} fusion(%images, %which), kind=kLoop, calls=%draw
  ROOT %again = (s32[2]{0}, f32[8,4]{1,0}) tuple(%which, %images)
}

ENTRY %main (i: s32[2], x: f32[8,4]) -> (s32[2], f32[8,4]) {
  %i = s32[2]{0} parameter(0), metadata={op_name="key"}
  %x = f32[8,4]{1,0} parameter(1), metadata={op_name="data[0].images[\'s1\']"}
  %rows = f32[8,4]{1,0} bitcast(%x)
  %both = (s32[2]{0}, f32[8,4]{1,0}) tuple(%i, %rows)
  ROOT %w = (s32[2]{0}, f32[8,4]{1,0}) while(%both), condition=%c, body=%body
}
"""


def test_images_that_a_loop_turns_are_copied_and_a_batch_is_none():
    text = Text(LOOP)
    assert copies(text) == [Copy("data[0].images['s1']", 8 * 4 * 2, looped=True)]
    assert plans.copied_data(text) == {"data[0].images['s1']": 8 * 4 * 2}


@pytest.mark.parametrize(("turned", "found"), [(True, {"data"}), (False, set())])
def test_a_copy_that_xla_makes_here_is_found(turned, found):
    def batches(data, rows):
        data = jax.lax.optimization_barrier(data.T) if turned else data
        return jax.lax.map(lambda one: data[one], rows)

    shapes = jax.ShapeDtypeStruct((64, 32), "float32"), jax.ShapeDtypeStruct((3, 2), "int32")
    assert plans.copied_data(Text(jax.jit(batches).lower(*shapes).compile().as_text())).keys() == found


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[]", 4),
        ("bf16[3,5]{1,0}", 30),
        ("bf16[3,5]{1,0:T(8,128)(2,1)}", 8 * 128 * 2),
        ("(f32[2]{0}, /*index=1*/pred[7]{0:T(512)(128)(4,1)})", 8 + 512),
        ("token[]", 0),
    ],
)
def test_bytes_of_what_xla_writes(shape, size):
    assert bytes_of(shape) == size


def test_a_program_that_xla_compiles_here_is_read():
    def loop(x):
        return jax.lax.fori_loop(0, 7, lambda i, y: jax.numpy.sin(y @ y), x)

    text = Text(jax.jit(loop).lower(jax.ShapeDtypeStruct((16, 16), "float32")).compile().as_text())
    assert list(text.arguments.values()) == [16 * 16 * 4]
    assert 7 in {times for _, times, _ in text.placed}
    assert not any(collective_of(one) for one, _, _ in text.placed)


@pytest.mark.parametrize("name", ["v5e:3x3", "v5e", "v99:2x2", "v5e:2x2@x", "v5e:2x2@0", ""])
def test_an_unknown_topology_lists_those_there_are(name):
    with pytest.raises(UserError, match=re.escape("v5e:2x2, 2x4, 4x4")):
        Topology.read(name)


def test_slices_are_part_of_a_topology():
    assert Topology.read("v5e:16x16@4") == ("v5e", "16x16", 4)
    assert all(Topology.read(f"{kind}:{shape}").chip.hbm for kind, shapes in SHAPES.items() for shape in shapes)


def _process(monkeypatch, code, output="", errors=""):
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(
        process.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code, output, errors)
    )


def test_an_abort_of_xla_is_one_line(monkeypatch):
    fatal = "F1126 21:00:00.1 12 tpu.cc:7] Check failed: limits (1 vs. 2)\n*** Stack trace: ***\n    @ 0x7f\n"
    _process(monkeypatch, -6, errors=f"I1126 loaded\n{fatal}")
    with pytest.raises(UserError, match=r"^--topology v5e:2x2: .*SIGABRT: Check failed: limits \(1 vs\. 2\)$"):
        process.planned("quickstart", STUDY, "v5e:2x2")


def test_libtpu_missing_names_the_extra(monkeypatch):
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install 'mmfl_jax[tpu]'")):
        process.planned("quickstart", STUDY, "v5e:2x2")


def test_a_lock_tells_who_holds_it(monkeypatch, tmp_path):
    import fcntl

    lock = tmp_path / "libtpu_lockfile"
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        monkeypatch.setattr(process, "_LOCK", lock)
        _process(monkeypatch, 0, json.dumps({"error": "libtpu says multi-process lockfile"}))
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} "):
            process.planned("quickstart", STUDY, "v5e:2x2")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "stream_mb": 1,
            "algorithm": "scaffold",
            "private": "norm",
            "client_optimizer": "sgd",
            "client_memory": "host",
        },
    ],
)
def test_a_plan_on_shapes_is_the_program_that_runs_and_reads_no_image(options, monkeypatch):
    study = STUDY.replace(**options)
    real = Simulation(study)
    real.compile()
    monkeypatch.setattr(Twin, "read", lambda *_: pytest.fail("an image was read"))
    rounds = AbstractRounds(study, jax.devices()[: real.mesh.size])
    compiled = rounds.lowered().compile(compiler_options(rounds.mesh))
    assert costs.memory(compiled) == costs.memory(real.execution.compiled)
    text = Text(compiled.as_text())
    assert plans.copied_data(text) == {}
    held = plans.memory_by_kind(text, compiled)
    assert sum(held.values()) == costs.peak_memory(compiled)
    data = sum(x.nbytes for x in jax.tree.leaves(tuple(map(real.execution.example, range(len(real.program.groups))))))
    assert held["data"] == pytest.approx(data / real.mesh.size, rel=0.05)
    assert (held["clients"] > 0) == ("algorithm" in options)
    assert rounds.flops() == real.cost()["flops_per_round"]


@pytest.fixture(scope="module")
def planned_here():
    return here.plan(STUDY)


def test_a_plan_of_this_machine_is_checked_by_running(planned_here):
    assert planned_here.checked["seconds"] > 0
    # Rounds of milliseconds on a shared machine: that the pieces add up, not how well.
    assert 0.1 < planned_here.checked["estimated_over_measured"] < 10
    assert planned_here.seconds_estimated == pytest.approx(sum(planned_here.seconds_by_part.values()))
    assert planned_here.clients == 10
    assert planned_here.largest_federation > 10


def test_the_table_says_where_each_number_comes_from(planned_here):
    from rich.console import Console

    console = Console(record=True, width=150, file=io.StringIO())
    console.print(show.table(planned_here.json()))
    printed = console.export_text()
    for words in ("timed here", "XLA's count", "arithmetic", "checked: it took", "largest federation"):
        assert words in printed


def test_more_clients_take_proportionally_more(planned_here):
    plan = planned_here.json()
    clients, whole = plan["clients"], sum(plan["hbm_bytes_per_chip"].values())
    seconds, memory = show.scaled(plan, np.array([clients, 2 * clients]))
    assert seconds[0] == pytest.approx(plan["seconds_estimated"])
    assert memory[0] == whole
    assert memory[1] - memory[0] == plan["hbm_bytes_per_chip"]["data"] + plan["hbm_bytes_per_chip"]["clients"]


def test_the_largest_federation_and_chunk_fill_memory():
    held = {"data": 10, "clients": 10, "model": 20, "results": 0, "temporaries": 30, "copies": 0}
    assert plans.largest(held, 150, 7, [2, 4]) == (7 * 100 // 20, (7, 14))
    assert plans.largest(held, 40, 7, [2]) == (0, (0,))


def test_the_command_writes_json_and_a_figure(tmp_path, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    picture = tmp_path / "plan.png"
    main(["plan", "quickstart", "--json", "--no-check", "--figure", str(picture), *flags])
    plan = json.loads(capsys.readouterr().out)
    names = "chips hbm_bytes_per_chip collectives flops_per_round seconds_estimated share_of_peak"
    assert plan.keys() >= set(names.split())
    assert plan["checked"] is None
    assert picture.stat().st_size > 10_000


@needs_libtpu
def test_a_pod_that_is_not_here():
    # A device a client: else a step has sums of its own.
    plan = process.planned("quickstart", STUDY.replace(devices_per_client=1), "v5e:2x2")
    assert plan["chips"] == 4
    assert plan["collectives"]["all-reduce"] >= 1
    assert plan["collectives_in_steps"] == {}
    assert plan["copied_data"] == {}
    assert plan["seconds_by_part"]["local steps"] > 0
    assert min(plan["step_cycles"]) > 0
    assert 0 < plan["share_of_peak"] < 1


@needs_libtpu
def test_a_tpu_copies_images_of_few_channels_and_no_rows():
    program = """
        import jax
        from jax.sharding import SingleDeviceSharding
        from mmfl_jax.planner.chips import Topology
        from mmfl_jax.planner.copies import copies
        from mmfl_jax.planner.hlo import Text
        from mmfl_jax.planner.pod import devices_of

        one = SingleDeviceSharding(devices_of(Topology.read("v5e:2x2"))[0])
        train = lambda images, rows: jax.lax.map(lambda row: jax.numpy.sin(images[row]).sum(), rows)
        for shape in ((40000, 32, 32, 10), (40000, 10240)):
            images, rows = (jax.ShapeDtypeStruct(*of, sharding=one) for of in ((shape, "float32"), ((9, 64), "int32")))
            found = copies(Text(jax.jit(train).lower(images, rows).compile().as_text()))
            print([copy.argument for copy in found])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = os.environ | process.ENVIRONMENT
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["['images']", "[]"], done.stderr


@pytest.fixture(scope="module")
def abstract():
    return AbstractRounds(STUDY, jax.devices()[:1])


def test_data_that_does_not_fit_says_by_how_much_before_xla_is_asked(abstract, monkeypatch):
    monkeypatch.setitem(chips.CHIPS, "v5e", Topology.read("v5e:2x2").chip._replace(hbm=100_000))
    said = r"^--topology v5e:2x2: .* more than the 97\.7 KiB of a chip \(data .*would help: more chips .*--stream-mb"
    with pytest.raises(UserError, match=said):
        pod.check_arguments(abstract, Topology.read("v5e:2x2"))


@pytest.mark.parametrize(
    "error",
    [
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (20.75G) exceeds available HBM (15.75G). HLO module: jit_federated_round.",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.75G of 15.75G hbm. Exceeded hbm "
        "capacity by 5.00G.",
    ],
)
def test_what_xla_says_of_short_memory_is_one_line(abstract, error):
    said = pod.refused(abstract, Topology.read("v5e:2x2").chip, error)
    assert said.startswith("5.0 GiB more than the 15.8 GiB of a chip (at least 20.8 GiB, temporaries")
    assert said.endswith("what would help: a smaller --chunk-size or --batch-size, --precision bfloat16")


def test_what_else_xla_says_is_told(abstract):
    assert pod.refused(abstract, Topology.read("v5e:2x2").chip, "INTERNAL: why\nstack") == "XLA says INTERNAL: why"
