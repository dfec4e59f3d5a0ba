"""What cannot be mapped is one clear line, and nothing that looks complete is left of it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from maps_scenes import S1, S2, Local, optical, radar, write_raster, write_scene

from mmfl_jax.errors import UserError
from mmfl_jax.maps import MapOptions, predict_maps
from mmfl_jax.maps.bands import choose_bands
from mmfl_jax.maps.stac import _seen


def refuse(source, output, message, model=None, **options):
    """Check the one line that a mistake gives, and that no map is left."""
    before = set(output.iterdir()) if output.is_dir() else set()
    with pytest.raises(UserError, match=message) as error:
        predict_maps(model or Local(), source, output, MapOptions(**options))
    assert "\n" not in str(error.value)
    assert (set(output.iterdir()) if output.is_dir() else set()) == before


@pytest.fixture
def scene(tmp_path):
    write_scene(tmp_path / "in")
    return tmp_path / "in"


def test_folders_that_are_none(tmp_path, scene):
    out = tmp_path / "out"
    refuse(tmp_path / "nowhere", out, r"nowhere: no such folder; --input needs the folder with the scenes")
    refuse(scene / "S1" / "place.tif", out, r"place\.tif: is a file; --input needs the folder")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", out, r"empty: no scene \(\.tif, .*\) found; they belong into .*empty/s1, .*empty/s2")
    (tmp_path / "text").write_text("x")
    refuse(scene, tmp_path / "text", r"text: is a file; --output needs a folder")
    refuse(scene, scene, r"in: lies in the input .*name another one")
    refuse(scene, scene / "maps", r"maps: lies in the input")
    (tmp_path / "link").symlink_to(scene)
    refuse(scene, tmp_path / "link" / "maps", r"maps: lies in the input")
    assert not out.exists()


def test_scenes_that_nothing_says_the_modality_of(tmp_path):
    write_raster(tmp_path / "in" / "x.tif", optical((40, 40)), names=S2)
    refuse(tmp_path / "in", tmp_path / "out", r"x\.tif: no folder says which modality this is; the run has 2, put")


def test_two_files_of_one_scene(tmp_path, scene):
    write_raster(scene / "S1" / "place.tiff", radar((70, 90)), names=S1)
    refuse(scene, tmp_path / "out", r"place\.tiff: place\.tif is of the same name; a modality has one file a scene")
    (scene / "S1" / "place.tiff").unlink()
    write_raster(scene / "S1" / "place.probabilities.tif", radar((70, 90)), names=S1)
    refuse(scene, tmp_path / "out", r"two scenes would be written there; rename one", probabilities=True)
    write_raster(scene / "s1" / "place.tif", radar((70, 90)), names=S1)
    refuse(scene, tmp_path / "out", r"s1: S1 is there as well; a modality has one folder")


def test_bands_that_the_run_has_not_learned_from(tmp_path, scene):
    path = scene / "S2" / "place.tif"
    write_raster(path, optical((70, 90)), names=("B02", "B03", "B04", "B11"))
    refuse(scene, tmp_path / "out", r"place\.tif: no band B08; it has B02, B03, B04, B11 \(4\), the run B02.*B08 \(4\)")
    write_raster(path, optical((70, 90))[..., :3])
    refuse(scene, tmp_path / "out", r"place\.tif: 3 bands without names, the run has B02, B03, B04, B08 \(4\); name")
    write_raster(path, np.dstack([optical((70, 90))] * 2), names=S2 * 2)
    refuse(scene, tmp_path / "out", r"place\.tif: 2 bands are called B02; names must differ")


def test_files_that_cannot_be_read(tmp_path, scene):
    path, out = scene / "S2" / "place.tif", tmp_path / "out"
    write_raster(path, optical((70, 90)).astype(np.complex64), names=S2)
    refuse(scene, out, r"place\.tif: pixels are complex64; real numbers are needed")
    path.write_bytes(b"")
    refuse(scene, out, r"place\.tif: an empty file \(0 bytes\)")
    path.write_bytes(b"no raster at all" * 100)
    refuse(scene, out, r"place\.tif: cannot be read, damaged or cut short \(")
    path.unlink()
    bands = "".join(f'<VRTRasterBand dataType="CInt16" band="{band}"/>' for band in (1, 2, 3, 4))
    path.with_suffix(".vrt").write_text(f'<VRTDataset rasterXSize="90" rasterYSize="70">{bands}</VRTDataset>')
    refuse(scene, out, r"place\.vrt: pixels are complex_int16; real numbers are needed")
    assert not out.exists()


@pytest.mark.parametrize("transform", [None, Affine(20, 0, 500_000, 0, -20, 5_400_000)])
def test_a_file_that_is_cut_short_leaves_nothing_of_its_scene(tmp_path, scene, transform):
    write_scene(scene, "early")
    path = scene / "S2" / "place.tif"
    write_raster(path, optical((300, 300)), names=S2, **({} if transform is None else {"transform": transform}))
    write_raster(scene / "S1" / "place.tif", radar((300, 300)), names=S1)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"S2/place\.tif: cannot be read, damaged or cut short \("):
        predict_maps(Local(), scene, tmp_path / "out", MapOptions(probabilities=True))
    # The scene before it stays, as a whole.
    names = {"early.tif", "early.tif.aux.xml", "early.png", "early.probabilities.tif"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names


def test_files_that_show_different_places(tmp_path, scene):
    path, out = scene / "S1" / "place.tif", tmp_path / "out"
    write_raster(path, radar((70, 90)), names=S1, transform=Affine(10, 0, 700_000, 0, -10, 5_400_000))
    refuse(scene, out, r"place\.tif: does not overlap .*place\.tif; files of one name must show one place")
    write_raster(path, radar((70, 90)), names=S1, crs="EPSG:32601")
    refuse(scene, out, r"S2/place\.tif: (does not overlap|EPSG:32633 cannot be brought to)")
    write_raster(path, radar((70, 90)), names=S1, crs=None)
    refuse(scene, out, r"S1/place\.tif: no coordinate reference system, but .*S2/place\.tif has one; give it one")


def test_without_a_system_files_must_be_alike(tmp_path):
    here = {"crs": None, "transform": Affine.identity()}
    write_raster(tmp_path / "in" / "s1" / "x.tif", radar((40, 40)), names=S1, **here)
    write_raster(tmp_path / "in" / "s2" / "x.tif", optical((40, 50)), names=S2, **here)
    message = r"s2/x\.tif: 40 x 50 pixels, .*s1/x\.tif has 40 x 40 or lies elsewhere; without a coordinate"
    refuse(tmp_path / "in", tmp_path / "out", message)


def test_what_is_there_is_replaced_only_if_it_is_ours(tmp_path, scene):
    out = tmp_path / "out"
    (path,) = predict_maps(Local(), scene, out)
    refuse(scene, out, r"place\.tif: is there already; --overwrite replaces it")
    before = path.stat().st_ino
    predict_maps(Local(), scene, out, MapOptions(overwrite=True))
    assert path.stat().st_ino != before
    write_raster(path, optical((70, 90)), names=S2)
    theirs = path.read_bytes()
    refuse(scene, out, r"place\.tif: is there already and no map of this command", overwrite=True)
    assert path.read_bytes() == theirs


def test_models_that_cannot_be_mapped(tmp_path, scene):
    class Diverged(Local):
        def probabilities(self, inputs):
            return super().probabilities(inputs) * np.nan

    class Many(Local):
        class_names, class_colors = tuple(map(str, range(256))), None

    (tmp_path / "out").mkdir()
    refuse(scene, tmp_path / "out", r"place: the model's probabilities are no numbers here", Diverged())
    refuse(scene, tmp_path / "out", r"256 classes; a map holds at most 255", Many())


def test_an_error_of_the_model_leaves_nothing(tmp_path, scene):
    class Broken(Local):
        def probabilities(self, inputs):
            if len(self.calls) > 1:
                raise RuntimeError("out of memory")
            return super().probabilities(inputs)

    with pytest.raises(RuntimeError, match="out of memory"):
        predict_maps(Broken(), scene, tmp_path / "out", MapOptions(probabilities=True, batch=1))
    assert not list((tmp_path / "out").iterdir())


def test_a_copy_that_is_not_what_was_written_is_no_map(tmp_path, scene, monkeypatch):
    copy = rasterio.shutil.copy

    def cut(source, target, **options):
        copy(source, target, **options)
        os.truncate(target, target.stat().st_size - 400)

    monkeypatch.setattr(rasterio.shutil, "copy", cut)
    (tmp_path / "out").mkdir()
    refuse(scene, tmp_path / "out", r"place\.tif: cannot be written \(.*\); [\d,]+ MB are free there")


def test_a_disk_that_may_not_do_is_told_before_anything_is_predicted(tmp_path, scene, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    model = Local()
    message = r"out: 3 MB are free, the maps of place may need 3 MB meanwhile"
    refuse(scene, tmp_path / "out", message, model, probabilities=True)
    assert not model.calls
    predict_maps(model, scene, tmp_path / "out")


def start(folder, code, **options):
    """Start Python with a scene to be mapped, and the tests' own modules."""
    script = f"""
import resource, sys, time
from pathlib import Path
from maps_scenes import Local
from mmfl_jax.errors import UserError
from mmfl_jax.maps import MapOptions, predict_maps

class Slow(Local):
    def probabilities(self, inputs):
        if len(self.calls) == 3:
            print("going", flush=True)
        time.sleep(0.05)
        return super().probabilities(inputs)

folder = Path({str(folder)!r})
{code}
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", script], text=True, env={**os.environ, "PYTHONPATH": path}, **options
    )


def test_a_full_disk_leaves_nothing(tmp_path):
    write_scene(tmp_path / "in", shape=(900, 900))
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    predict_maps(Local(tile=256), folder / "in", folder / "out", MapOptions(probabilities=True))
except UserError as error:
    print(error)
"""
    process = start(tmp_path, code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(said.splitlines()) == 1
    assert ".tif: cannot be written (" in said
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_that_looks_complete(tmp_path, number):
    write_scene(tmp_path / "in", shape=(400, 400))
    code = """
from mmfl_jax.runs.signals import Stopped
try:
    predict_maps(Slow(), folder / "in", folder / "out", MapOptions(batch=1, probabilities=True))
except Stopped as stop:
    print(stop)
"""
    process = start(tmp_path, code, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "going\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert left
        assert all(".part" in name for name in left)
    else:
        assert said == f"stopped by {number.name} in scene place; maps that were complete stay\n"
        assert not left
    # The next run begins anew, and clears away what was left.
    predict_maps(Local(), tmp_path / "in", tmp_path / "out", MapOptions(probabilities=True))
    assert not [path for path in (tmp_path / "out").iterdir() if ".part" in path.name]


names = st.lists(st.text(min_size=1, max_size=6).filter(lambda name: not name.strip().isdigit()), max_size=6)


@given(names, st.randoms())
def test_bands_are_found_wherever_they_stand(extra, random):
    wanted = ["B02", "B8A", "VV", "Höhe"]
    others = [
        name for name in extra if name.strip().casefold() not in ("b2", "b02", "b8a", "vv", "höhe", "b08a", "b002")
    ]
    found = [*wanted, *others]
    random.shuffle(found)
    numbers = choose_bands(Path("x.tif"), found, wanted)
    assert [found[number - 1] for number in numbers] == wanted


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=5),
    st.lists(st.text(max_size=5), min_size=1, max_size=5),
)
def test_bands_are_chosen_or_refused(found, wanted):
    try:
        numbers = choose_bands(Path("x.tif"), found, wanted)
    except UserError:
        # By place it would have worked, had the numbers of bands agreed.
        assert len(found) != len(wanted) or any(found)
    else:
        assert len(numbers) == len(wanted)
        assert all(1 <= number <= len(found) for number in numbers)


@given(st.text(max_size=40), st.dates().filter(lambda day: 1900 <= day.year < 2100))
def test_dates_are_read_from_any_name(text, day):
    _seen(text, [{"DATETIME": text}])
    found = _seen(f"S1_{day:%Y%m%d}T010203_x", [])
    assert (found.date(), found.hour, found.second) == (day, 1, 3)


def test_numbers_are_no_names():
    # Files as written by others: numbers are no names.
    assert choose_bands(Path("x.tif"), ("Band 1", "band_2"), ("VV", "VH")) == [1, 2]
    assert choose_bands(Path("x.tif"), ("red", "nir"), ("1", "2")) == [1, 2]
