"""Short ways to resample give what the products of matrices give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmfl_jax.archives.resampling import resize, weights

IMAGES = hnp.arrays(np.uint16, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))


def by_products(images, size, method):
    rows, columns = (weights(*pair, method).astype(np.float64) for pair in zip(images.shape[-2:], size, strict=True))
    return rows @ images.astype(np.float64) @ columns.T


@given(IMAGES)
def test_doubling_is_exact(images):
    size = tuple(2 * length for length in images.shape[-2:])
    expected = by_products(images, size, "bilinear")
    np.testing.assert_array_equal(resize(images, size), expected)
    np.testing.assert_array_equal(resize(images.astype(np.float32), size), expected)


@given(IMAGES, st.integers(1, 20), st.integers(1, 20))
def test_nearest_takes_pixels(images, more_rows, more_columns):
    size = images.shape[-2] + more_rows, images.shape[-1] + more_columns
    np.testing.assert_array_equal(resize(images, size, "nearest"), by_products(images, size, "nearest"))


@pytest.mark.parametrize("enlarge", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(12, 16), (7, 9), (3, 4), (12, 3), (6, 8)])
def test_into_an_array(enlarge, size):
    images = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    images[1, 2, 3] = np.nan
    out = np.empty((2, *size), np.float32)
    assert resize(images, size, enlarge, out=out) is out
    np.testing.assert_array_equal(out, resize(images, size, enlarge))
    np.testing.assert_allclose(out[0], resize(images[:1].astype(np.float64), size, enlarge)[0], rtol=1e-5, atol=1e-6)
    if enlarge == "nearest" and size == (12, 16):
        assert np.isnan(out[1]).sum() == 4
