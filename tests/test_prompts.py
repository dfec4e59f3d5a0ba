"""Prompt learning on a frozen CLIP: formulas, equalities with the Python loop, what travels, and what stays."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import run_on_devices
from federations import ragged_federation, simulation
from flax import nnx
from PIL import Image
from test_round import assert_close, reference_state

from mmfl_jax import Simulation, Study
from mmfl_jax.costs import client_bytes, memory
from mmfl_jax.engine.batches import Batch, GroupData, Rows
from mmfl_jax.engine.client import Client, Facts, begin, local_step
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.round import make_round
from mmfl_jax.engine.server import empty_sums
from mmfl_jax.errors import UserError
from mmfl_jax.evaluation.personal import personal_accuracy, summarize
from mmfl_jax.models import Output, Template, clip, frozen_values, values
from mmfl_jax.models.clip.prompts import PromptLearner, ZeroShot
from mmfl_jax.objectives.prompts import CMFAC, PACL, cmfac, pacl
from mmfl_jax.runs.checkpoints import Checkpoints

SIZES = [5, 9, 12, 30, 40, 8]
NAMES = ("airport", "beach", "dense residential")
BOTH = ("shared", "private")


def federation(sizes=SIZES, **archive):
    options = {"shapes": {"features": (64,)}, "task": "multiclass", **archive}
    return ragged_federation(sizes, [tuple(options["shapes"])] * len(sizes), **options)


def prompts(sizes=SIZES, **options):
    defaults = {"method": "fedrsclip", "clip": "tiny", "client_learning_rate": 0.005}
    return simulation(federation(sizes), **{**defaults, **options})


@functools.cache
def tiny():
    return clip.CLIP(clip.TINY, rngs=nnx.Rngs(0))


@functools.cache
def tokens():
    with pytest.warns(UserWarning, match="bytes stand for tokens"):
        tokenizer = clip.ByteTokenizer()
    return clip.tokenize(NAMES, tokenizer, clip.TINY, reserved=4)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def plain_texts(model, prompt):
    """Return unit text features of the classes, every text written out as a whole."""
    names = model.text.embed(jnp.asarray(tokens().ids))
    stands = jnp.broadcast_to(prompt, (len(names), *prompt.shape))
    whole = jnp.concatenate([names[:, :1], stands, names[:, 1:]], axis=1)
    texts = model.text(whole, tokens().end_positions + len(prompt))
    return texts / jnp.linalg.norm(texts, axis=-1, keepdims=True)


@nnx.jit
def both_texts(model, params):
    return jnp.stack([plain_texts(model, params[f"prompts/{name}/tokens"]) for name in BOTH])


def test_alignment_is_one_minus_the_mean_cosine():
    rng = np.random.default_rng(0)
    texts, images = unit(rng.normal(size=(2, 5, 7))), unit(rng.normal(size=(4, 7)))
    labels = np.array([0, 3, 3, 1])
    cosines = np.einsum("bd,pcd->pbc", images, texts)
    distance = 1 - np.mean([texts[0, c] @ texts[1, c] for c in range(5)])
    np.testing.assert_allclose(pacl(jnp.asarray(texts)), distance, rtol=1e-5)
    mismatch = 1 - np.mean([images[i] @ texts[p, c] for i, c in enumerate(labels) for p in range(2)])
    one_hot = jnp.eye(5)[labels]
    np.testing.assert_allclose(cmfac(jnp.asarray(cosines), one_hot), mismatch, rtol=1e-5)
    assert pacl(jnp.asarray(texts[:1])) == 0
    output, batch = Output(None, {}, jnp.asarray(texts), jnp.asarray(cosines)), SimpleNamespace(classes=one_hot)
    np.testing.assert_allclose(PACL(2.0).loss(output, batch, {}), distance, rtol=1e-5)
    np.testing.assert_allclose(CMFAC(3.0).loss(output, batch, {}), mismatch, rtol=1e-5)


def test_logits_are_scaled_cosines_with_the_texts_of_each_prompt():
    model = tiny()
    images = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    learners = {b: PromptLearner(model, tokens(), BOTH, 4, b, nnx.Rngs(1)) for b in ("mean", *BOTH)}
    output = nnx.jit(lambda learner: learner({"features": images}, train=True))(learners["mean"])
    texts = both_texts(model, values(learners["mean"])[0])
    np.testing.assert_allclose(output.texts, texts, atol=1e-5)
    cosines = np.einsum("bd,pcd->pbc", unit(images), texts)
    np.testing.assert_allclose(output.cosines, cosines, atol=1e-5)
    scale = np.exp(np.asarray(model.logit_scale[...]))
    np.testing.assert_allclose(output.logits, scale * cosines.mean(axis=0), atol=1e-4)
    for branches, expected in {"shared": cosines[0], "private": cosines[1]}.items():
        found = learners[branches].classify(jnp.asarray(images), output.texts)
        np.testing.assert_allclose(found.logits, scale * expected, atol=1e-4)


def test_only_prompts_are_trained_and_the_clip_stays_whole():
    model = tiny()
    before = values(model)[0]
    learner = PromptLearner(model, tokens(), BOTH, 4, "mean", nnx.Rngs(1))
    params, stats = values(learner)
    assert {name: value.shape for name, value in params.items()} == {f"prompts/{name}/tokens": (4, 64) for name in BOTH}
    assert not stats
    assert all(0.01 < np.std(value) < 0.03 for value in params.values())
    frozen = frozen_values(learner)
    assert "text/token_embedding/embedding" not in frozen  # the names are embedded already
    text = {n for n in before if n.startswith("text/") and "token_embedding" not in n}
    assert set(frozen) == {*text, "begin", "names", "logit_scale"}
    assert values(model)[0].keys() == before.keys()
    again = Template.of(lambda: learner).module(params, stats, frozen)
    np.testing.assert_array_equal(frozen_values(again)["names"], frozen["names"])


def test_zero_shot_equals_clip():
    model = tiny()
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    ids, ends = tokens().ids, tokens().end_positions
    features = nnx.jit(lambda model: model.vision(images))(model)
    found = ZeroShot(model, tokens())({"rgb": features}, train=False).logits
    np.testing.assert_allclose(found, nnx.jit(lambda model: model(images, ids, ends))(model), atol=1e-4)


def test_a_local_step_descends_the_loss_as_it_is_written():
    sim = prompts(pacl_weight=0.3, cmfac_weight=0.7)
    model = sim.program.templates[0]
    kept = jax.tree.map(lambda v: v[0], sim.state.clients[0])
    facts = Facts(jnp.float32(16), jnp.int32(1), jnp.uint32(0), jnp.int32(0), jnp.int32(0))
    client = Client(sim.program, 0, sim.state, kept, facts)
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(16, 64)).astype(np.float32), np.eye(3)[rng.integers(0, 3, 16)]
    batch = Batch({"features": jnp.asarray(images)}, jnp.asarray(labels), jnp.asarray(labels), jnp.arange(16), None)
    local = begin(client, batch)
    after, losses, _ = jax.jit(lambda: local_step(client, local, jnp.int32(0), batch))()
    local = local._replace(params={**local.params, **local.private})
    after = after._replace(params={**after.params, **after.private})
    rate = sim.study.training.client_learning_rate

    @jax.jit
    @jax.value_and_grad
    def written(params):
        output = model.module(params, {}, sim.state.frozen)({"features": images}, train=True)
        (shared, private), (one, two) = output.texts, (unit(images) @ t.T for t in output.texts)
        cross_entropy = optax.softmax_cross_entropy(np.exp(np.log(1 / 0.07)) * (one + two) / 2, labels).mean()
        apart = 1 - (shared * private).sum(axis=1).mean()
        mismatch = 1 - ((one + two) / 2 * labels).sum(axis=1).mean()
        return cross_entropy + 0.3 * apart + 0.7 * mismatch

    value, gradient = written(local.params)
    np.testing.assert_allclose(losses["loss"], value, rtol=1e-4)
    for name, before in local.params.items():
        assert np.abs(gradient[name]).max() > 1e-2
        np.testing.assert_allclose(after.params[name], before - rate * gradient[name], atol=1e-5)


def one_round(**options):
    """Return the simulation after a round without client 1, and the state before."""
    sim = prompts(algorithm="fedavgm", **options)
    everybody = sim.cohort(0)
    sim.cohort = lambda number: everybody.part([np.array([0, 2, 3, 4, 5])])
    before = jax.tree.map(np.array, sim.state)
    sim.run_round()
    return sim, before


@functools.cache
def expected_state():
    sim = prompts(algorithm="fedavgm", devices=1)
    everybody = sim.cohort(0)
    sim.cohort = lambda number: everybody.part([np.array([0, 2, 3, 4, 5])])
    return reference_state(sim)


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_round_equals_the_python_loop_and_absent_clients_keep_their_prompts(chunk_size):
    sim, before = one_round(chunk_size=chunk_size)
    assert_close(sim.state, expected_state())
    private, first = (state.clients[0]["variables"]["prompts/private/tokens"] for state in (sim.state, before))
    np.testing.assert_array_equal(private[1], first[1])
    moved = np.abs(private - first).max(axis=(1, 2))
    assert (np.delete(moved, 1) > 1e-4).all()
    name = "prompts/shared/tokens"
    assert np.abs(sim.state.params[name] - before.params[name]).max() > 1e-4
    np.testing.assert_equal(*[jax.device_get(state.frozen) for state in (sim.state, before)])


def test_two_devices_equal_the_python_loop():
    script = (
        "from test_prompts import assert_close, expected_state, one_round\n"
        "from test_round import in_order\n"
        "sim, _ = one_round(devices=2, devices_per_client=1, chunk_size=1)\n"
        "assert sim.mesh.size == 2\n"
        "assert_close(in_order(sim), expected_state())\n"
    )
    run_on_devices(2, script)


def test_round_of_a_linear_head_equals_the_python_loop():
    sim = prompts(method="linear", chunk_size=4)
    expected = reference_state(sim)
    sim.run_round()
    assert_close(sim.state, expected)


def test_resume_is_bit_exact_and_no_checkpoint_holds_the_clip(tmp_path):
    sim, again = prompts(rounds=1), prompts(rounds=1)
    summary = sim.run(tmp_path, report=False)
    assert summary["personal"]["clients"] == len(SIZES)
    sim.run_round()
    whole = jax.tree.map(np.array, sim.state)
    saved = Checkpoints(tmp_path / "checkpoints", read_only=True)
    number, sim.state = saved.restore(again.state)
    saved.close()
    assert number == sim.round_number == 1
    sim.run_round()
    np.testing.assert_equal(*map(_numpy, (sim.state, whole)))
    size = sum(file.stat().st_size for file in (tmp_path / "checkpoints" / "1").rglob("*") if file.is_file())
    assert size < sum(value.nbytes for value in whole.frozen.values()) / 4


def _numpy(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def ints(shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract(config, names):
    """Return the program of FedRSCLIP on a CLIP of these sizes, and its state's shapes; nothing is computed."""
    make = lambda held: PromptLearner(clip.CLIP(config, rngs=nnx.Rngs(0)), names, BOTH, 4, "mean", nnx.Rngs(0))
    program = prompts().program
    rest = {field: getattr(program, field) for field in (f.name for f in dataclasses.fields(program))}
    for field in ("template", "groups", "templates"):
        del rest[field]
    program = Program.of(make, ("features",), (("features",),), **rest)
    features = Rows(ints((9, config.projection), jnp.float32), (config.projection,))
    data = GroupData({"features": features}, ints((9, 31)), None, *[ints((6,))] * 3, None)
    return program, jax.eval_shape(lambda: program.init(make(("features",)), 31, 0)), data


def test_clients_send_2048_numbers_where_the_whole_clip_has_151_million():
    program, state, data = abstract(clip.VIT_B_32, tokens())
    assert client_bytes(program, state, data, 0) == (4 * 2048, 4 * 2048)
    sums = jax.eval_shape(lambda state, data: empty_sums(program, state, (data,), (6,)), state, data)["message"]
    assert {name: value.shape for name, value in sums["change"].items()} == {"prompts/shared/tokens": (4, 512)}
    assert not sums["moments"]
    full = Template.of(lambda: clip.CLIP(clip.VIT_B_32, rngs=nnx.Rngs(0)))
    fine_tuning = sum(int(np.prod(variable.shape)) for _, variable in full.params.values())
    assert fine_tuning == 151_277_313
    assert fine_tuning // 2048 == 73_865  # times as much, up and down


@pytest.mark.parametrize(
    ("method", "sent", "private"),
    [
        ("fedrsclip", ["prompts/shared/tokens"], ["prompts/private/tokens"]),
        ("promptfl", ["prompts/shared/tokens"], []),
        ("local-prompts", [], ["prompts/private/tokens"]),
        ("clip", [], []),
        ("linear", ["head/bias", "head/kernel"], []),
    ],
)
def test_what_travels_and_what_stays(method, sent, private):
    sim = prompts(method=method)
    assert sorted(sim.program.sent(0)[0]) == sent
    assert list(sim.state.clients[0]["variables"]) == private
    size = sum(sim.state.params[name].size for name in sent)
    assert client_bytes(sim.program, sim.state, sim.execution.example(0), 0) == (4 * size, 4 * size)


def test_zero_shot_needs_no_round_and_bears_some():
    summary = prompts(method="clip", rounds=0).run()
    assert summary["rounds"] == summary["communication"]["total_bytes"] == 0
    assert prompts(method="clip", rounds=1).run()["evaluation"] == summary["evaluation"]
    assert summary["personal"]["clients"] == len(SIZES)


def test_the_server_answers_with_the_shared_prompt_and_a_client_with_its_own():
    sim = prompts()
    name = "prompts/private/tokens"
    before, personal = sim.evaluate(), sim.evaluate_personal()
    noise = 3 * jax.random.normal(jax.random.key(5), sim.state.clients[0]["variables"][name].shape)
    sim.state = dataclasses.replace(sim.state, clients=({**sim.state.clients[0], "variables": {name: noise}},))
    assert sim.evaluate() == before
    found = sim.evaluate_personal()
    assert (found != personal).any()
    archive, test = sim.federation.archive, sim.federation.test
    call = jax.jit(
        lambda own: (
            sim.program.templates[0]
            .module({**sim.state.params, name: own}, {}, sim.state.frozen)(
                {"features": archive.read("features", test)}, train=False
            )
            .logits
        )
    )
    for i in (0, 4):
        right = np.argmax(call(noise[i]), axis=1) == archive.labels[test]
        by_class = [right[archive.labels[test] == c].mean() for c in range(3)]
        own = archive.labels[sim.federation.groups[0].client(i)]
        np.testing.assert_allclose(found[i], np.mean([by_class[c] for c in own]), rtol=1e-6)


def test_personal_accuracy_weighs_classes_by_the_clients_shares():
    hits, tested = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [1.0, 1.0, 0.0]]), np.array([4, 2, 0])
    counts = np.array([[1, 3, 5], [10, 0, 0], [0, 0, 7]])
    accuracy = personal_accuracy(hits, tested, counts)
    np.testing.assert_allclose(accuracy, [0.25 * 0.75 + 0.75 * 0.5, 0, np.nan])
    found = summarize(accuracy)
    assert found == {"clients": 2, "mean": 0.28125, "worst": 0.0, "p10": 0.05625, "std": 0.28125}
    np.testing.assert_allclose(personal_accuracy(hits[:1], tested, counts)[1], 0.75)
    assert summarize(np.array([np.nan]))["mean"] is None


def test_memory_of_a_round_does_not_grow_with_its_clients_nor_hold_the_clip_as_constants():
    def compiled(clients):
        sim = prompts(sizes=[4] * clients, chunk_size=2)
        sim.compile()
        return sim, memory(sim.execution.compiled)["temporaries"]

    (small, few), (large, many) = compiled(10), compiled(1000)
    prompt = 4 * 64 * 4
    # A round's clients hand in their prompts, and have a place in the plan: both once.
    assert many - few < 990 * (3 * prompt + 60)
    frozen = sum(value.nbytes for value in large.state.frozen.values())
    state = memory(small.execution.compiled)["held"]
    assert state > frozen
    plans = small.execution._lay(small.cohort(0)).placed
    text = (
        make_round(small.program, small.mesh, (10,))
        .lower(small.state, small.execution.data, plans, small._key)
        .as_text()
    )
    assert len(text) < frozen


def test_weights_from_a_file(request):
    path = request.path.parent / "data" / "clip" / "hugging_face"
    sim = simulation(
        federation(shapes={"features": (20,)}), method="fedrsclip", clip=str(path), prompt_tokens=2, rounds=1
    )
    assert sim.state.params["prompts/shared/tokens"].shape == (2, 24)
    tokens, width = sim.state.frozen["names"].shape  # of three names, each with its end
    assert tokens >= 6
    assert width == 24


def test_scenes_are_seen_through_the_features_of_their_images(tmp_path):
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(60 * i, 60 * i + 100, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "scenes" / name / f"{number}.png")
    study = Study.of(
        archive=f"scenes:{tmp_path / 'scenes'}",
        method="linear",
        clip="tiny",
        partition="iid",
        clients=3,
        rounds=1,
        feature_cache=str(tmp_path / "cache"),
    )
    sim = Simulation(study)
    archive = sim.federation.archive
    assert archive.modalities["rgb"].shape == (64,)
    assert archive.class_names == NAMES
    images, _, _ = clip.read_images(archive.attributes["file"].tolist(), 64)
    expected = nnx.jit(lambda model: model.vision(clip.normalize(jnp.asarray(images))))(tiny())
    everything = np.arange(len(archive))
    np.testing.assert_allclose(sim.normalizer.read(archive, "rgb", everything), expected, atol=1e-4)
    assert sim.run()["personal"]["clients"] == 3


@pytest.mark.parametrize(
    ("options", "archive", "message"),
    [
        ({"clip": ""}, {}, "--method fedrsclip needs --clip, the file or folder of CLIP's weights"),
        ({"clip": "nowhere.safetensors"}, {}, "nowhere.safetensors: no such file"),
        ({"prompt_tokens": 0}, {}, "--prompt-tokens 0: must be a whole number from 1"),
        ({"prompt_tokens": 70}, {}, "70 of prompts; 77 at most"),
        ({"prompt_branches": "both"}, {}, "--prompt-branches 'both' is unknown; one of mean, shared, private"),
        ({"method": "promptfl", "prompt_branches": "private"}, {}, "promptfl has no such prompt; mean or shared"),
        ({"pacl_weight": -1.0}, {}, "--pacl-weight -1.0: must be a finite number not below 0"),
        ({"prompt_template": "a photo"}, {}, r"--prompt-template 'a photo' has no \{\}"),
        ({"method": "promptfl", "rounds": 0}, {}, "--rounds 0: --method promptfl trains; give at least 1"),
        ({}, {"shapes": {"features": (20,)}}, "its features have length 64, those of archive memory 20"),
        ({}, {"shapes": {"s1": (5, 2)}}, "needs one modality of image features"),
        ({}, {"task": "multilabel"}, r"needs one class a sample \(multiclass\)"),
    ],
)
def test_options_that_do_not_fit(options, archive, message):
    with pytest.raises(UserError, match=message):
        simulation(federation(**archive), **{"method": "fedrsclip", "clip": "tiny", **options})
