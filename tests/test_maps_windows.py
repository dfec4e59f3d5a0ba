"""Windows: what is blended of them is what the whole scene would have got, and memory does not grow with the scene."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maps_scenes import Box, Local, optical, radar

from mmfl_jax.maps import windows
from mmfl_jax.maps.windows import Axis, Windows

sizes = st.tuples(st.integers(1, 300), st.integers(2, 70)).flatmap(
    lambda found: st.tuples(st.just(found[0]), st.just(found[1]), st.integers(0, found[1] // 2))
)


@given(sizes)
@settings(deadline=None)
def test_windows_hold_every_pixel_and_their_weights_sum_to_one(found):
    length, side, overlap = found
    axis = Axis.of(length, side, overlap)
    total = np.zeros(max(length, side))
    for start, weights in zip(axis.starts, axis.weights):
        assert 0 <= start <= max(length - side, 0)
        total[start : start + side] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (axis.weights >= 0).all()


@given(sizes, st.integers(1, 9))
@settings(deadline=None)
def test_panels_part_the_axis_and_name_all_windows_that_count_there(found, most):
    length, side, overlap = found
    axis = Axis.of(length, side, overlap)
    end = 0
    for span, chosen in axis.panels(most):
        assert span.start == end
        end = span.stop
        total = np.zeros(max(length, side))
        for number in chosen:
            total[axis.starts[number] : axis.starts[number] + side] += axis.weights[number]
        np.testing.assert_allclose(total[span], 1, atol=1e-6)
    assert end == length


def blended(predictor, values, cut):
    """Return the probabilities of a scene, and where there is anything, put together from its blocks."""
    shape = next(iter(values.values())).shape[:2]
    read = lambda rows, columns: {m: image[rows, columns].astype(np.float32) for m, image in values.items()}
    whole, there = np.full((*shape, 4), np.nan, np.float32), np.zeros(shape, bool)
    channels = sum(image.shape[-1] for image in values.values())
    blocks = list(map(copied, cut.blend(read, shape, predictor.probabilities, 4, channels)))
    for block in blocks:
        assert np.isnan(whole[block.rows, block.columns]).all()
        whole[block.rows, block.columns], there[block.rows, block.columns] = block.probabilities, block.there
    assert len(blocks) == cut.steps(shape, 4, channels)
    return whole, there


def copied(block):
    return windows.Block(block.rows, block.columns, block.probabilities.copy(), block.there.copy())


@pytest.mark.parametrize("shape", [(70, 90), (32, 32), (33, 200), (20, 90), (90, 7), (1, 1)])
@pytest.mark.parametrize("overlap", [0, 7, 16])
@pytest.mark.parametrize("strip", [1, windows.STRIP])
def test_windowed_equals_whole_for_what_sees_one_pixel(monkeypatch, shape, overlap, strip):
    monkeypatch.setattr(windows, "STRIP", strip)
    values, predictor = {"s1": radar(shape), "s2": optical(shape)}, Local()
    whole = predictor.probabilities({m: image[None].astype(np.float32) for m, image in values.items()})[0]
    found, there = blended(predictor, values, Windows(32, overlap, 3))
    np.testing.assert_allclose(found, whole, atol=2e-6)
    assert there.all()


@pytest.mark.parametrize("shape", [(100, 150), (64, 131), (65, 65)])
def test_windowed_equals_whole_for_a_convolution_whose_field_is_half_the_overlap(shape):
    values, predictor = {"s1": radar(shape), "s2": optical(shape)}, Box(radius=4)
    whole = predictor.probabilities({m: image[None].astype(np.float32) for m, image in values.items()})[0]
    # A field of 9 pixels sees 4 beyond its own: windows are wrong 4 pixels deep, and the overlap's quarter is 5.
    found, _ = blended(predictor, values, Windows(64, 20, 4))
    np.testing.assert_allclose(found, whole, atol=5e-6)
    np.testing.assert_array_equal(found.argmax(-1), whole.argmax(-1))
    apart, _ = blended(predictor, values, Windows(64, 0, 4))
    assert np.abs(apart - whole).max() > 0.05  # there are seams to be seen without an overlap


def test_no_seam_where_the_field_is_as_wide_as_the_overlap():
    shape = (160, 160)
    values, predictor = {"s1": np.full((*shape, 2), -12, np.float32)}, Box(radius=8)
    seams = []
    for overlap in (0, 32):
        found, _ = blended(predictor, values, Windows(64, overlap, 4))
        inner = found[20:-20, 20:-20]
        seams.append(max(np.abs(np.diff(inner, axis=axis)).max() for axis in (0, 1)))
    assert seams[0] > 0.02
    assert seams[1] < seams[0] / 5


def test_pixels_without_any_value_are_told_and_windows_without_are_not_predicted():
    values = {"s1": radar((64, 160)), "s2": optical((64, 160)).astype(np.float32)}
    values["s1"][:, 50:] = np.nan
    values["s2"][:, 100:] = np.nan
    values["s2"][3, 60] = np.nan
    values["s2"][5, 60, 1] = np.nan
    predictor = Local()
    _, there = blended(predictor, values, Windows(32, 8, 4))
    expected = np.ones((64, 160), bool)
    expected[:, 100:] = False
    expected[3, 60] = False
    np.testing.assert_array_equal(there, expected)
    held = [tuple(call) for call in predictor.calls]
    assert set(held) == {("s1", "s2"), ("s2",)}
    # Of 7 windows side by side, two hold no value.
    assert sum(next(iter(call.values()))[0] for call in predictor.calls) <= 3 * (4 + 4)


def test_all_batches_have_one_shape():
    predictor = Local()
    blended(predictor, {"s1": radar((70, 300)), "s2": optical((70, 300))}, Windows(32, 8, 5))
    assert {call["s1"] for call in predictor.calls} == {(5, 32, 32, 2)}


def test_what_is_read_at_once_does_not_grow_with_the_scene(monkeypatch):
    monkeypatch.setattr(windows, "STRIP", 100_000)
    read_at_once = []

    def read(rows, columns):
        read_at_once.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return {"s1": np.zeros((rows.stop - rows.start, columns.stop - columns.start, 2), np.float32)}

    cut = Windows(16, 4, 4)
    for block in cut.blend(read, (2000, 2000), Local(held=("s1",)).probabilities, 4, 2):
        assert block.probabilities.size <= 16 * 300 * 4
    assert max(read_at_once) <= 16 * 300
    assert sum(read_at_once) < 1.1 * 2000 * 2000  # rows are read once, and few columns twice
