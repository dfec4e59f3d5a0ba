"""The scope of a variable follows from its name."""

import pytest

from mmfl_jax.models.scopes import PRIVATE, SHARED, scope


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoders/s1/stem/kernel", "s1"),
        ("encoders/s2/blocks/0/norms/1/mean", "s2"),
        ("projectors/s1/out/bias", "s1"),
        ("heads/s2/kernel", "s2"),
        ("head/kernel", SHARED),
        ("encoders/unified/stem/kernel", SHARED),
        ("heads/unified/bias", SHARED),
    ],
)
def test_encoders_belong_to_their_modality_and_the_head_to_all(name, expected):
    assert scope(name) == expected


@pytest.mark.parametrize(
    ("private", "name", "expected"),
    [
        (["norm"], "encoders/s1/stem_norm/scale", PRIVATE),
        (["norm"], "encoders/s1/blocks/0/norms/1/mean", PRIVATE),
        (["norm"], "encoders/s1/stem/kernel", "s1"),
        (["head"], "head/kernel", PRIVATE),
        (["head"], "heads/s1/kernel", PRIVATE),
        (["head"], "encoders/s1/first/kernel", "s1"),
        (["norm", "head"], "head/bias", PRIVATE),
        ([], "encoders/s1/stem_norm/scale", "s1"),
        (["*"], "bias", PRIVATE),
    ],
)
def test_private_words(private, name, expected):
    assert scope(name, private) == expected
