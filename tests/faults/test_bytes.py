"""Files damaged in any way: every reader answers with what it read, or with one line."""

import shutil

import pytest
from faults.fuzz import KINDS, ODD, READERS, Edit, damage, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

EDITS = st.lists(
    st.builds(Edit, st.sampled_from(KINDS), st.floats(0, 1), st.integers(1, 64), st.sampled_from(ODD)),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module", params=READERS)
def good(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    files = READERS[request.param].write(folder)
    return READERS[request.param], folder, files


def test_good_files_are_read(good):
    reader, folder, _ = good
    assert verdict(reader, folder) == "read"


@settings(max_examples=25, deadline=None)
@given(data=st.data(), edits=EDITS, inside=st.booleans())
def test_damaged_files(good, data, edits, inside):
    reader, folder, files = good
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    try:
        damage(path, edits, inside)
        verdict(reader, folder)
    finally:
        path.write_bytes(whole)


def test_files_that_are_empty_or_folders(good):
    reader, folder, files = good
    for path in files:
        whole = path.read_bytes()
        for change in (lambda p: p.write_bytes(b""), lambda p: (p.unlink(), p.mkdir())):
            try:
                change(path)
                verdict(reader, folder)
            finally:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                path.write_bytes(whole)
