"""How long clients take on the virtual clock."""

import numpy as np
import pytest
from federations import MemoryArchive, ragged_federation

from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.clock import Clock


def federation(clients=2000):
    made = ragged_federation([1] * clients, [("s1",), ("s2",)] * (clients // 2))
    made.archive.attributes["watts"] = np.arange(len(made.archive)) + 1.0
    made.archive.attributes["zeros"] = np.zeros(len(made.archive), int)
    return made


FEDERATION = federation()


def clock(speed="constant:10", **options):
    return Clock.of(FEDERATION, speed, **options)


def test_time_is_to_receive_to_train_and_to_send():
    made = clock("constant:5", bandwidth_up="constant:100", bandwidth_down="constant:1000")
    members = np.array([3, 8])
    assert made.seconds(members, np.array([10, 20]), np.array([50, 100]), 500).tolist() == [3.0, 5.5]
    assert made.round_seconds(members, np.array([10, 20]), np.array([50, 100]), 500) == 5.5
    assert made.round_seconds(np.array([], int), np.array([], int), 50, 500) == 0


def test_infinite_bandwidth_takes_no_time():
    made = clock(bandwidth_up="constant:inf", bandwidth_down="constant:inf")
    assert made.seconds(np.array([0]), 20, 1e9, 1e9).tolist() == [2.0]


def test_distributions():
    speed = clock("lognormal:20:0.5", seed=1).speed
    assert abs(np.median(speed) - 20) < 1
    assert abs(np.log(speed).std() - 0.5) < 0.03
    assert (clock("lognormal:20:0").speed == 20).all()
    speed = clock("uniform:2:6", seed=1).speed
    assert 2 <= speed.min() < 2.1
    assert 5.9 < speed.max() <= 6
    assert abs(speed.mean() - 4) < 0.1
    assert (clock("constant:2.5").speed == 2.5).all()


def test_every_draw_has_its_own_numbers_and_is_drawn_by_the_seed():
    same = {"bandwidth_up": "uniform:1:2", "bandwidth_down": "uniform:1:2"}
    one, again, other = (clock("uniform:1:2", seed=seed, **same) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.speed, again.speed)
    for first, second in (
        (one.speed, one.bandwidth_up),
        (one.bandwidth_up, one.bandwidth_down),
        (one.speed, other.speed),
    ):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    # A change of one option leaves the draws of the others.
    np.testing.assert_array_equal(one.bandwidth_up, clock("constant:1", seed=0, **same).bandwidth_up)


def test_a_column_gives_each_client_the_mean_of_its_samples():
    archive = MemoryArchive(samples=7)
    archive.attributes["watts"] = np.array([1, 2, 3, 4, 5, 6, 7])
    clients = [("a", ("s2",), [0, 1]), ("b", ("s1",), [5]), ("c", ("s2",), [3, 4, 5])]
    made = Clock.of(Federation.of(archive, clients, [6]), "column:watts")
    assert made.speed.tolist() == [1.5, 6.0, 5.0]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("fast", "--speed 'fast' is unknown; constant:VALUE, lognormal:MEDIAN:SIGMA, uniform:LOW:HIGH or column:"),
        ("10", "--speed '10' is unknown"),
        ("constant:", "--speed 'constant:' is unknown"),
        ("constant:1:2", "--speed 'constant:1:2' is unknown"),
        ("constant:ten", "--speed 'constant:ten' is unknown"),
        ("lognormal:3", "--speed 'lognormal:3' is unknown"),
        ("column:", "--speed 'column:' is unknown"),
        ("constant:0", "--speed 'constant:0': needs VALUE > 0"),
        ("constant:nan", "--speed 'constant:nan': needs VALUE > 0"),
        ("lognormal:0:1", "--speed 'lognormal:0:1': needs MEDIAN > 0 and SIGMA >= 0"),
        ("lognormal:3:-1", "--speed 'lognormal:3:-1': needs MEDIAN > 0 and SIGMA >= 0"),
        ("uniform:5:2", "--speed 'uniform:5:2': needs 0 < LOW <= HIGH"),
        ("uniform:0:2", "--speed 'uniform:0:2': needs 0 < LOW <= HIGH"),
        ("uniform:1:inf", "--speed 'uniform:1:inf': needs 0 < LOW <= HIGH"),
        ("column:wats", "'wats' is no attribute of archive memory (did you mean watts?)"),
        ("column:region", "--speed 'column:region': attribute region holds text; numbers are needed"),
        ("column:zeros", "--speed 'column:zeros': client 0 has a mean of 0; each must be above 0"),
    ],
)
def test_values_that_cannot_be(reference, message):
    with pytest.raises(UserError) as error:
        clock(reference)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_option_that_is_wrong_is_named():
    with pytest.raises(UserError, match="--bandwidth-up 'x' is unknown"):
        clock(bandwidth_up="x")
    with pytest.raises(UserError, match="--bandwidth-down 'x' is unknown"):
        clock(bandwidth_down="x")
