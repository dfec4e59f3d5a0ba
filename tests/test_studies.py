"""What studies rest on: seeds of data and of training apart, validation, owners' shift."""

from mmfl_jax import Simulation, Study
from mmfl_jax.study.build import open_federation

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
