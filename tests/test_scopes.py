"""Whether a variable is private follows from its name."""

import pytest

from mmfl_jax.models.scopes import is_private


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        (["norm"], "encoders/s1/stem_norm/scale", True),
        (["norm"], "encoders/s1/blocks/0/norms/1/mean", True),
        (["norm"], "encoders/s1/stem/kernel", False),
        (["head"], "head/kernel", True),
        (["head"], "heads/s1/kernel", True),
        (["head"], "encoders/s1/first/kernel", False),
        (["kernel"], "head/kernel", False),
        (["norm", "head"], "head/bias", True),
        ([], "encoders/s1/stem_norm/scale", False),
        (["*"], "bias", True),
    ],
)
def test_private_words(words, name, expected):
    assert is_private(name, words) == expected
