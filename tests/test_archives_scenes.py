"""Scene archives: a folder for each class, names as words, files and folders that are not as they should be."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_data import REAL_DATA

from mmfl_jax import Federation, archives
from mmfl_jax.archives import scenes_names
from mmfl_jax.archives.scenes_names import PUBLISHED, recognise, spaced
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.errors import UserError
from mmfl_jax.models import clip

REAL = REAL_DATA / "scenes"


def pixels(seed, height=20, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(root, classes, images=2, suffix=".png", seed=0):
    for i, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for j in range(images):
            Image.fromarray(pixels(seed + 100 * i + j)).save(folder / f"{name}_{j:03}{suffix}")
    return f"scenes:{root}"


def opened(reference, **options):
    """Open with the warnings that it gives, as lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        archive = archives.open(reference, image_size=16, **options)
    return archive, [str(warning.message) for warning in caught]


def error(reference, **options):
    with pytest.raises(UserError) as caught:
        archives.open(reference, image_size=16, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".tif", ".tiff", ".bmp"])
def test_images_are_prepared_as_clips_are(tmp_path, suffix):
    archive = archives.open(write(tmp_path, ["golf_course", "river"], suffix=suffix), image_size=16)
    assert archive.class_names == ("golf course", "river")
    assert archive.labels.dtype == np.int32
    assert archive.labels.tolist() == [0, 0, 1, 1]
    images = archive.read("rgb", np.array([3, 0, 3]))
    assert images.dtype == np.float32
    with Image.open(tmp_path / "river" / f"river_001{suffix}") as image:
        expected = clip.prepare(image, 16)
    np.testing.assert_array_equal(images[0], expected)
    np.testing.assert_array_equal(images[2], images[0])
    normalizer = Normalizer.of(Federation.split(archive, clients=2, test_split="0.25"))
    np.testing.assert_allclose(normalizer.read(archive, "rgb", np.array([3]))[0], clip.normalize(expected), atol=1e-6)
    assert archive.read("rgb", np.zeros(0, int)).shape == (0, 16, 16, 3)
    assert json.loads(json.dumps(archive.describe()))["attributes"] == {"archive": 1, "class": 2, "file": 4}


def test_the_clips_size_is_the_default(tmp_path):
    archive = archives.open(write(tmp_path, ["lake", "river"]))
    assert archive.modalities["rgb"].shape == (224, 224, 3)
    assert archive.splits is None


@pytest.mark.parametrize("between", ["", "Images", "UCMerced_LandUse/Images"])
def test_class_folders_lie_deeper(tmp_path, between):
    write(tmp_path / between, ["agricultural", "mobilehomepark"])
    (tmp_path / "__MACOSX" / "junk").mkdir(parents=True)
    (tmp_path / between / "river").mkdir(exist_ok=True)
    shutil.copy(tmp_path / between / "agricultural" / "agricultural_000.png", tmp_path / between / "river" / "._a.png")
    (tmp_path / "readme.txt").write_text("no image")
    archive, lines = opened(f"scenes:{tmp_path}")
    assert archive.class_names == ("agricultural", "mobile home park")
    assert lines == [
        f"{tmp_path}: class folders without a readable image are left out: "
        + str(Path(*(tmp_path / between / "river").parts[-2:]))
    ]


def test_official_splits(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for split in ("train", "val", "test"):
        write(root / split, ["lake", "river"], images=1)
    archive = archives.open(f"scenes:{root}", image_size=16)
    assert sorted(zip(archive.splits.tolist(), archive.labels.tolist())) == [
        (split, label) for split in ("test", "train", "validation") for label in (0, 1)
    ]
    # None together with an archive that has none, nor without test samples.
    write(other, ["lake", "river"], images=1)
    assert archives.open(f"scenes:{root},{other}", image_size=16).splits is None
    shutil.rmtree(root / "test")
    assert archives.open(f"scenes:{root}", image_size=16).splits is None


@pytest.mark.parametrize(
    "folder, words",
    [
        ("baseball_diamond", "baseball diamond"),
        ("BaseballDiamond", "baseball diamond"),
        ("baseballdiamond", "baseball diamond"),
        ("Baseball-Diamond", "baseball diamond"),
        ("groundtrackfield", "ground track field"),
        ("storagetanks", "storage tanks"),
        ("thermalpowerstation", "thermal power station"),
        ("BareLand", "bare land"),
        ("bareland", "bareland"),
        ("RIVER", "river"),
        ("___", "___"),
    ],
)
def test_names_are_words(folder, words):
    assert spaced(folder) == words


def test_published_archives():
    sizes = {archive.name: (len(archive.classes), archive.images) for archive in PUBLISHED}
    assert sizes == {"Optimal-31": (31, 1860), "UC Merced": (21, 2100), "NWPU-RESISC45": (45, 31500)}
    for archive in PUBLISHED:
        assert recognise(archive.classes) is archive
        assert recognise(sorted(archive.classes)[1:]) is archive
        assert all(spaced(name.replace(" ", joint)) == name for name in archive.classes for joint in ("", "_"))
    assert recognise(["cat", "dog", "river"]) is None


def test_a_published_archive_is_recognised_and_its_size_checked(tmp_path, monkeypatch):
    merced = next(archive for archive in PUBLISHED if archive.name == "UC Merced")
    folders = [name.replace(" ", "") for name in sorted(merced.classes)]
    write(tmp_path, folders[1:], images=1)
    archive, lines = opened(f"scenes:{tmp_path}")
    assert archive.notes["recognised"] == {str(tmp_path): "UC Merced"}
    assert set(archive.attribute("archive")) == {"UC Merced"}
    assert lines == [f"{tmp_path}: 20 classes and 20 images; published UC Merced has 21 and 2100"]
    # Of the published size there is nothing to say.
    write(tmp_path, folders, images=1)
    monkeypatch.setattr(scenes_names, "PUBLISHED", (scenes_names.Published(merced.name, merced.classes, len(folders)),))
    assert opened(f"scenes:{tmp_path}")[1] == []


def test_several_directories_by_archive(tmp_path):
    write(tmp_path / "a", ["storagetanks", "river", "buildings"], images=2)
    write(tmp_path / "b", ["storage_tank", "river", "sea_ice"], images=3, seed=7)
    archive = archives.open(f"scenes:{tmp_path}/a,{tmp_path}/b", image_size=16)
    assert archive.class_names == ("buildings", "river", "sea ice", "storage tank")
    assert np.bincount(archive.labels).tolist() == [2, 5, 3, 5]
    assert [archive.class_names[label] for label in archive.labels] == archive.attribute("class").tolist()
    assert archive.attribute("archive").tolist() == ["a"] * 6 + ["b"] * 9
    by_archive = Federation.split(archive, "by:archive", test_split="0.2")
    assert [set(archive.attributes["archive"][g.client(i)]) for g in by_archive.groups for i in range(2)] == [
        {"a"},
        {"b"},
    ]
    # Alone it keeps its own name.
    assert "storage tanks" in archives.open(f"scenes:{tmp_path}/a", image_size=16).class_names


def test_archives_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for parent in ("x", "y"):
        write(tmp_path / parent / "scenes", ["lake", "river"], images=1)
    archive = archives.open(f"scenes:{tmp_path}/x/scenes,{tmp_path}/y/scenes", image_size=16)
    assert set(archive.attribute("archive")) == {f"{tmp_path}/x/scenes", f"{tmp_path}/y/scenes"}


def test_disjoint_classes(tmp_path):
    archive = archives.open(write(tmp_path, ["beach", "lake", "river", "sea_ice"], images=5), image_size=16)
    federation = Federation.split(archive, "by:class", clients=2, test_split="0.2")
    (group,) = federation.groups
    held = [set(archive.labels[group.client(i)].tolist()) for i in range(2)]
    assert not held[0] & held[1]
    assert held[0] | held[1] == {0, 1, 2, 3}


def test_a_comma_in_a_name_of_a_folder(tmp_path):
    reference = write(tmp_path / "scenes, all", ["lake", "river"])
    assert len(archives.open(reference, image_size=16)) == 4


def test_grey_16_bit_and_transparent_images(tmp_path):
    write(tmp_path, ["lake", "river"], images=1)
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "lake" / "x_grey.jpg", quality=100)
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "lake" / "y_16.tif")
    Image.fromarray(np.dstack([ramp] * 4)).save(tmp_path / "lake" / "z_rgba.png")
    archive = archives.open(f"scenes:{tmp_path}", image_size=16)
    expected = np.repeat(ramp[..., None], 3, axis=2)
    for image in archive.read("rgb", np.array([1, 2, 3])):
        np.testing.assert_allclose(image, expected, atol=3)


def spoil(root):
    """Write files that cannot be read beside those that can; return their names."""
    river = root / "river"
    for suffix in (".png", ".jpg", ".tif", ".bmp"):
        Image.fromarray(pixels(0)).save(river / f"cut{suffix}")
        whole = (river / f"cut{suffix}").read_bytes()
        (river / f"cut{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    (river / "empty.jpg").write_bytes(b"")
    (river / "text.png").write_text("no image")
    Image.fromarray(pixels(0)[..., 0].astype(np.float32)).save(river / "float.tif")
    names = ["cut.bmp", "cut.jpg", "cut.png", "cut.tif", "empty.jpg", "float.tif", "text.png"]
    return [str(river / name) for name in names]


def test_unreadable_images_are_listed_and_left_out(tmp_path):
    reference = write(tmp_path, ["lake", "river"], images=20)
    spoiled = spoil(tmp_path)
    archive, lines = opened(reference)
    assert lines == [
        f"{tmp_path}: 7 of 47 images cannot be read and are left out: "
        "river/cut.bmp, river/cut.jpg, river/cut.png and 4 more"
    ]
    assert list(archive.notes["left_out_unreadable"]) == spoiled
    assert "floating-point" in archive.notes["left_out_unreadable"][spoiled[5]]
    assert len(archive) == 40
    assert np.isfinite(archive.read("rgb", np.arange(40))).all()


def test_data_behind_an_images_end_is_no_fault(tmp_path):
    reference = write(tmp_path, ["lake", "river"], suffix=".jpg")
    with open(tmp_path / "lake" / "lake_000.jpg", "ab") as file:
        file.write(bytes(500))
    archive = archives.open(reference, image_size=16)
    assert len(archive) == 4


def test_an_image_that_is_gone_since(tmp_path):
    archive = archives.open(write(tmp_path, ["lake", "river"]), image_size=16)
    (tmp_path / "river" / "river_001.png").unlink()
    with pytest.raises(UserError, match=r"river_001.png: cannot be read .*No such file"):
        archive.read("rgb", np.arange(4))


def test_a_class_without_a_readable_image_is_left_out(tmp_path):
    reference = write(tmp_path, ["lake", "river", "sea_ice"])
    (tmp_path / "airport").mkdir()
    for file in (tmp_path / "lake").iterdir():
        file.write_bytes(b"")
    archive, lines = opened(reference)
    assert archive.class_names == ("river", "sea ice")
    assert [Path(folder).name for folder in archive.notes["left_out_empty_classes"]] == ["airport", "lake"]
    assert len(lines) == 2
    assert "class folders without a readable image are left out: " in lines[1]


def test_mistakes(tmp_path):
    write(tmp_path / "data", ["lake", "river"])
    assert error("scenes:") == "archive 'scenes': a location is missing; write scenes:DIR"
    assert error(f"scenes:{tmp_path}/absent").startswith(f"{tmp_path}/absent: no such folder; scenes:DIR needs")
    assert error(f"scenes:{tmp_path}/data,{tmp_path}/absent").startswith(f"{tmp_path}/absent: no such folder")
    assert "images lie in it directly, name the folder above it" in error(f"scenes:{tmp_path}/data/lake")
    (tmp_path / "nothing").mkdir()
    assert error(f"scenes:{tmp_path}/nothing").startswith(f"{tmp_path}/nothing: no class folder with images (.jpg,")
    assert "named twice" in error(f"scenes:{tmp_path}/data,{tmp_path}/data/../data")
    assert "'s2' is no modality of scenes; there are: rgb" in error(f"scenes:{tmp_path}/data", modalities=["s2"])
    write(tmp_path / "one", ["lake"])
    assert "one class alone, 'lake'" in error(f"scenes:{tmp_path}/one")
    for file in (tmp_path / "one" / "lake").iterdir():
        file.write_text("no image")
    assert "nor can any other of 2 images" in error(f"scenes:{tmp_path}/one")


def test_pillow_is_needed(tmp_path, monkeypatch):
    reference = write(tmp_path, ["lake", "river"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install 'mmfl_jax[clip]'" in error(reference)


@pytest.mark.skipif(not REAL.is_dir(), reason="the sample of real scenes is not there")
def test_real_scenes():
    archive, lines = opened(f"scenes:{REAL}", samples=100)
    assert lines == []
    assert len(archive) == 100
    assert archive.describe()["subset_of"] == 800
    assert archive.class_names == (
        *("commercial area", "desert", "forest", "industrial area", "lake", "mountain", "river", "wetland"),
    )
    images = archive.read("rgb", np.arange(100))
    brightness = [images[archive.labels == label].mean() for label in range(8)]
    assert np.argmax(brightness) == archive.class_names.index("desert")
