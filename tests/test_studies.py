"""What studies rest on: seeds of data and of training apart, validation, owners' shift."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from federations import MemoryArchive
from sklearn.metrics import f1_score

from mmfl_jax import Simulation, Study
from mmfl_jax.archives.base import Subset
from mmfl_jax.federation import Federation
from mmfl_jax.federation.labels import with_few_labels
from mmfl_jax.federation.owners import Shifted, owners_of
from mmfl_jax.federation.ragged import row_numbers
from mmfl_jax.objectives.mim import MIM
from mmfl_jax.objectives.options import MIMOptions
from mmfl_jax.study.build import open_federation
from mmfl_jax.tasks import task_of
from mmfl_jax.tasks.metrics import best_threshold

TWIN = {"archive": "twin", "samples": 200, "image_size": 8, "partition": "iid", "clients": 4, "width": 4, "rounds": 1}


def dealt(**options):
    return open_federation(Study.of(**TWIN, **options)).digest()


def test_data_are_drawn_by_their_own_seed():
    assert dealt(seed=1, data_seed=3) == dealt(seed=2, data_seed=3) == dealt(seed=3)
    assert dealt(seed=1, data_seed=3) != dealt(seed=1)


def test_weights_are_drawn_by_the_seed_alone():
    weights = [
        Simulation(Study.of(**TWIN, method="mf", seed=s, data_seed=d)).digest() for s, d in ((1, 3), (1, 4), (2, 3))
    ]
    assert weights[0] == weights[1] != weights[2]


def test_owners_hold_out_their_share_and_no_place_is_torn():
    study = Study.of(**TWIN, validation_share=0.25)
    before = open_federation(study.replace(validation_share=0.0, test_split="0.2"))
    after = open_federation(study.replace(test_split="0.2"))
    assert before.validation.size == 0
    assert after.sizes.tolist() == [size - size // 4 for size in before.sizes]
    np.testing.assert_array_equal(np.union1d(after.train, after.validation), before.train)
    assert not np.intersect1d(after.train, after.validation).size


def test_an_official_split_brings_its_validation_samples():
    federation = open_federation(Study.of(**TWIN))
    np.testing.assert_array_equal(federation.validation, np.flatnonzero(federation.archive.splits == "validation"))
    assert not open_federation(Study.of(**TWIN, test_split="0.2")).validation.size


def test_thresholds_are_tuned_on_validation_samples_alone():
    simulation = Simulation(Study.of(**TWIN, method="mf"))
    federation, scores = simulation.federation, simulation.evaluate()
    for name, found in scores.items():
        seen = name.split("+")
        tuned = best_threshold(
            federation.archive.labels[federation.validation], simulation.predict(federation.validation, seen)
        )
        assert found["threshold"] == tuned
        answers = simulation.predict(federation.test, seen) >= tuned
        truth = federation.archive.labels[federation.test]
        assert found["f1_tuned"] == pytest.approx(f1_score(truth, answers, average="micro"))
    assert sorted(simulation.evaluate_validation()) == sorted(scores)


def test_samples_are_of_the_owner_who_has_their_country_and_strangers_have_their_own():
    options = TWIN | {"partition": "by:country", "clients": 0}
    federation = open_federation(Study.of(**options, modality_assignment="split"))
    owners, country = owners_of(federation, "by:country", 0), federation.archive.attribute("country")
    pairs = set(zip(owners.tolist(), country.tolist()))
    assert len(pairs) == len(set(owners)) == len(set(country)) == 10
    held = open_federation(Study.of(**options, test_split="by:country"))
    strange = owners_of(held, "by:country", 0)
    assert not set(strange[held.test]) & set(strange[held.train])


def test_owners_sensors_differ_and_labels_and_missing_values_stay():
    study = Study.of(**TWIN, owner_shift=0.5)
    plain, shifted = open_federation(study.replace(owner_shift=0.0)), open_federation(study)
    owners = owners_of(plain, study.federation.partition, 0)
    assert plain.digest() == shifted.digest()
    rows = plain.train[:40]
    before, after = (f.archive.read("s2", rows) for f in (plain, shifted))
    for owner in set(owners[rows]):  # a sensor is affine in the channels: least squares find it again
        own = owners[rows] == owner
        x = before[own].reshape(-1, 10).astype(np.float64)
        x, y = np.c_[x / 1e3, np.ones(len(x))], after[own].reshape(-1, 10) / 1e3
        assert np.abs(x @ np.linalg.lstsq(x, y, rcond=None)[0] - y).max() < 1e-3
    assert np.abs(after - before).mean() > 10
    again = open_federation(study.replace(seed=5, data_seed=0)).archive.read("s2", rows)
    np.testing.assert_array_equal(after, again)
    other = open_federation(study.replace(data_seed=1)).archive
    assert other.read("s2", rows).shape == after.shape
    missing = Shifted(MemoryArchive(), np.zeros(60, int), 0.5, 0)
    missing._archive.images["s1"][3, 2, 1] = np.nan
    found = missing.read("s1", np.arange(60))
    assert np.isnan(found).sum() == 1
    assert np.isnan(found[3, 2, 1])


class Brighter(Shifted):
    """A stranger's sensor: every channel's deviations are ten times those of training."""

    def _sensor(self, modality, owner):
        channels = self.modalities[modality].shape[-1]
        return np.full(channels, 10.0), np.zeros(channels), np.zeros((channels, channels))


@pytest.mark.parametrize("method", ["mf", "mf+fw"])
def test_own_moments_undo_a_gain_that_pooled_ones_do_not(method):
    study = Study.of(**TWIN | {"clients": 1}, method=method, modalities="s2")
    pooled, own = Simulation(study), Simulation(study.replace(evaluation_moments="own"))
    own.state = pooled.state
    archive, test = pooled.federation.archive, pooled.federation.test
    archive = Subset(archive, test)
    archive.splits = None
    stranger = Brighter(archive, np.zeros(len(test), int), 1.0, 0)
    expected = own.evaluate(archive)["s2"]
    found = {name: s.evaluate(stranger)["s2"] for name, s in (("pooled", pooled), ("own", own))}
    assert found["own"]["ap_per_class"] == pytest.approx(expected["ap_per_class"], abs=0.05)
    assert found["pooled"]["ap_per_class"] != pytest.approx(expected["ap_per_class"], abs=0.05)


@pytest.mark.parametrize("name", ["multilabel", "multiclass", "pixel"])
def test_few_labels_are_a_share_of_each_clients_and_only_they_are_trained_on(name):
    memory = MemoryArchive(task=name)
    clients = [("a", ("s1",), np.arange(25)), ("b", ("s1",), np.arange(25, 40)), ("c", ("s2",), np.arange(40, 42))]
    federation = Federation.of(memory, clients, np.arange(42, 60))
    few = with_few_labels(federation, 0.2, 0)
    task = task_of(memory)
    for group, labelled in zip(few.groups, ([5, 3], [1])):
        labels = few.labels(group)
        kept = (labels != task.unlabelled).reshape(len(labels), -1).any(axis=1)
        assert [kept[a:b].sum() for a, b in itertools.pairwise(group.offsets)] == labelled
        np.testing.assert_array_equal(labels[kept], federation.labels(group)[kept] if kept.any() else labels[kept])
        targets, rows = task.encode(labels), np.flatnonzero(kept)
        logits = np.random.default_rng(0).normal(size=(*targets.shape, task.classes)[: 4 if name == "pixel" else 2])
        whole, part = (
            float(task.loss(jnp.float32(x), y)) for x, y in ((logits, targets), (logits[rows], targets[rows]))
        )
        assert whole == pytest.approx(part, rel=1e-5)
        counts = few.label_counts(group)
        expected = task.counts(
            task.table(federation.labels(group)[rows]), row_numbers(group.offsets)[rows], len(counts)
        )
        np.testing.assert_array_equal(counts, expected)
        assert not np.asarray(task.presence(jnp.asarray(targets)))[~kept].any()


def test_mim_warms_up_and_prototypes_have_momentum():
    mim = MIM(MIMOptions(mim_weight=0.4, mim_warmup=4, mim_momentum=0.75, mim_size=2), ("s1", "s2"))
    assert [float(mim.weight_at(jnp.int32(r))) for r in (0, 1, 4, 9)] == pytest.approx([0, 0.1, 0.4, 0.4])
    sums = lambda *rows: {m: (jnp.float32(rows), jnp.ones(len(rows))) for m in ("s1", "s2")}
    first = mim.update(mim.init(2), sums((2, 0), (0, 0)))
    np.testing.assert_allclose(first["s1"]["keys"], [[1, 0], [0, 0]])  # nothing was known: nothing stays
    second = mim.update(first, sums((0, 3), (0, 1)))
    np.testing.assert_allclose(second["s1"]["keys"], [np.array([3, 1]) / np.sqrt(10), [0, 1]], rtol=1e-6)
