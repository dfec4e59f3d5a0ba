"""What studies rest on: seeds of data and of training apart, validation, owners' shift."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mmfl_jax import Simulation, Study
from mmfl_jax.study.build import open_federation
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
