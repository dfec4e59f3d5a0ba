"""Sen1Floods11: hand-labelled chips as published, countries as owners, missing radar, official splits."""

import json
import shutil

import numpy as np
import pytest
from rasters import cut_short, image, labels, own, refusal, write

from mmfl_jax import Federation, archives
from mmfl_jax.archives.base import IGNORED

CHIPS = ("Ghana_1", "Ghana_22", "India_3", "Sri-Lanka_4", "USA_5", "Bolivia_6")
SPLITS = {"train": ("Ghana_1", "India_3", "USA_5"), "valid": ("Ghana_22",), "test": ("Sri-Lanka_4",)}
HAND = "v1.1/data/flood_events/HandLabeled"
LISTS = "v1.1/splits/flood_handlabeled"
WGS = {"crs": "EPSG:4326", "step": 8.983152841195215e-05}


def write_tree(root, size=16):
    for number, chip in enumerate(CHIPS):
        place = {"origin": (number, 7.5), **WGS}
        write(root / HAND / "S1Hand" / f"{chip}_S1Hand.tif", image(number, 2, size, size), **place)
        write(root / HAND / "S2Hand" / f"{chip}_S2Hand.tif", image(number, 13, size, size, "int16"), **place)
        raster = labels(number, size, size, values=(-1, 0, 1), dtype="int16")
        write(root / HAND / "LabelHand" / f"{chip}_LabelHand.tif", raster, **place)
    (root / LISTS).mkdir(parents=True)
    for split, chips in SPLITS.items():
        lines = [f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n" for chip in chips]
        (root / LISTS / f"flood_{split}_data.csv").write_text("".join(lines))
    return root


def opened(root, **options):
    return archives.open(f"sen1floods11:{root}", **options)


def test_chips_are_read_as_rasterio_does(tmp_path):
    root = write_tree(tmp_path / "Überschwemmung 11")
    archive = opened(root)
    assert (archive.task, archive.class_names) == ("pixel", ("land", "water"))
    assert archive.modalities["s1"].channels == ("VV", "VH")
    assert archive.modalities["s2"].shape == (16, 16, 13)
    assert archive.modalities["s2"].channels[7:10] == ("B08", "B8A", "B09")
    tiles = archive.attribute("tile")
    assert tiles.tolist() == sorted(set(CHIPS) - {"Bolivia_6"})
    assert archive.attribute("country").tolist() == ["Ghana", "Ghana", "India", "Sri-Lanka", "USA"]
    assert archive.splits.tolist() == ["train", "validation", "train", "test", "train"]
    assert archive.notes["left_out_not_in_split"] == 1
    everything = np.arange(5)
    for modality, folder in (("s1", "S1Hand"), ("s2", "S2Hand")):
        expected = [own(root / HAND / folder / f"{tile}_{folder}.tif") for tile in tiles]
        np.testing.assert_array_equal(archive.read(modality, everything), expected)
    truth = np.stack([own(root / HAND / "LabelHand" / f"{tile}_LabelHand.tif")[..., 0] for tile in tiles])
    np.testing.assert_array_equal(archive.read_labels(everything), np.where(truth < 0, IGNORED, truth))
    np.testing.assert_array_equal(archive.labels, [[(raster == value).sum() for value in (0, 1)] for raster in truth])
    assert json.loads(json.dumps(archive.describe()))["splits"] == {"test": 1, "train": 3, "validation": 1}


def test_countries_are_owners(tmp_path):
    archive = opened(write_tree(tmp_path), image_size=8)
    federation = Federation.split(archive, "by:country", assignment="split")
    names = sorted(name for group in federation.groups for name in group.names)
    assert len(names) == 6
    assert {archive.attribute("country")[i] for group in federation.groups for i in group.samples} == {
        "Ghana",
        "India",
        "USA",
    }
    assert len(federation.test) == 4


def test_radar_may_be_missing(tmp_path):
    root = write_tree(tmp_path)
    radar = image(0)
    radar[:, 3:5] = np.nan
    write(root / HAND / "S1Hand" / "Ghana_1_S1Hand.tif", radar, origin=(0, 7.5), **WGS)
    nothing = np.full((2, 16, 16), np.nan, np.float32)
    write(root / HAND / "S1Hand" / "India_3_S1Hand.tif", nothing, origin=(2, 7.5), **WGS)
    (root / HAND / "S1Hand" / "USA_5_S1Hand.tif").unlink()
    # Published chips have labels without a single one as well.
    no_label = np.full((16, 16), -1, np.int16)
    write(root / HAND / "LabelHand" / "Ghana_22_LabelHand.tif", no_label, origin=(1, 7.5), **WGS)
    archive = opened(root)
    assert dict(zip(archive.attribute("tile"), archive.absent("s1"))) == {
        "Ghana_1": False,
        "India_3": True,
        "Sri-Lanka_4": False,
        "USA_5": True,
    }
    np.testing.assert_array_equal(np.isnan(archive.read("s1", [0])[0]), np.isnan(np.moveaxis(radar, 0, -1)))
    assert archive.notes["missing_images"] == {"s1": 2}
    assert archive.notes["left_out_without_label"] == 1
    assert opened(root, modalities=("s1",)).attribute("tile").tolist() == ["Ghana_1", "Sri-Lanka_4"]


@pytest.mark.parametrize("within", ["", "v1.1", "v1.1/data/flood_events/HandLabeled"])
def test_the_root_or_deeper(tmp_path, within):
    archive = opened(write_tree(tmp_path) / within)
    assert (len(archive), archive.splits is None) == ((6, True) if within.endswith("Labeled") else (5, False))


def test_a_file_cut_short_is_left_out(tmp_path):
    root = write_tree(tmp_path, size=64)
    cut_short(root / HAND / "S1Hand" / "Ghana_1_S1Hand.tif")
    with pytest.warns(UserWarning, match="1 of 15 files cannot be read and are left out, first .*Ghana_1_S1Hand.tif"):
        archive = opened(root)
    assert archive.absent("s1").tolist() == [True, False, False, False, False]


def chip_number(path):
    return CHIPS.index(path.stem.rpartition("_")[0])


def spoil(root, what):
    hand, lists = root / HAND, root / LISTS
    s1, label = hand / "S1Hand" / "Ghana_1_S1Hand.tif", hand / "LabelHand" / "Ghana_1_LabelHand.tif"
    match what:
        case "no labels":
            shutil.rmtree(hand / "LabelHand")
            return f"{root}: no LabelHand in it, nor in v1.1/data/flood_events/HandLabeled; not a tree of Sen1Floods11"
        case "empty labels":
            shutil.rmtree(hand / "LabelHand")
            (hand / "LabelHand").mkdir()
            return f"{hand}/LabelHand: no GeoTIFF in it"
        case "no images":
            shutil.rmtree(hand / "S1Hand")
            shutil.rmtree(hand / "S2Hand")
            return f"{hand}: neither S1Hand nor S2Hand in it; at least one has to be there"
        case "a name":
            s1.rename(hand / "S1Hand" / "Ghana_1.tif")
            return f"{hand}/S1Hand/Ghana_1.tif: chips are called PLACE_ID_S1Hand.tif, such as Ghana_103272_S1Hand.tif"
        case "twice":
            (hand / "S1Hand" / "more").mkdir()
            shutil.copy(s1, hand / "S1Hand" / "more")
            return f"{hand}/S1Hand/more/{s1.name}: {s1} has the same name; take one of them away"
        case "bands":
            for path in (hand / "S1Hand").iterdir():
                write(path, image(0, 3), origin=(chip_number(path), 7.5), **WGS)
            return f"{s1}: 3 bands; s1 of sen1floods11 has 2: VV, VH"
        case "a label":
            write(label, labels(0, values=(0, 1, 2), dtype="int16"), origin=(0, 7.5), **WGS)
            count = int((own(label) == 2).sum())
            return (
                f"{label}: {count} pixels have the label 2, which Sen1Floods11 does not know; it has 0, 1, and ignores"
            )
        case "all ignored":
            for path in (hand / "LabelHand").iterdir():
                write(path, np.full((16, 16), -1, np.int16))
            return f"{root}: all pixels of 5 label rasters are ignored (-1); two classes are needed"
        case "no radar":
            for path in (hand / "S1Hand").iterdir():
                write(path, np.full((2, 16, 16), np.nan, np.float32), **WGS, origin=(chip_number(path), 7.5))
            return f"{root}: modality 's1' has no value in any of 5 samples; leave it out by modalities"
        case "another place":
            write(s1, image(0), origin=(40, 7.5), **WGS)
            return f"{s1}: does not overlap with its labels in {label}; are the files of one place?"
        case "a list less":
            (lists / "flood_valid_data.csv").unlink()
            return f"{lists}/flood_valid_data.csv: no such file, while flood_train_data.csv is there; add it"
        case "a chip in two lists":
            shutil.copy(lists / "flood_train_data.csv", lists / "flood_test_data.csv")
            return f"{lists}/flood_test_data.csv: chip Ghana_1 is in flood_train_data.csv as well"
        case "another list":
            (lists / "flood_test_data.csv").write_text("image,label\n")
            return (
                f"{lists}/flood_test_data.csv: line 1 begins with 'image'; lines are such as Ghana_103272_S1Hand.tif,"
            )
        case "bytes":
            (lists / "flood_test_data.csv").write_bytes(b"\xff\xfe\x00")
            return f"{lists}/flood_test_data.csv: cannot be read as csv in UTF-8 ("
        case "lists of others":
            for number, path in enumerate(lists.iterdir()):
                path.write_text(f"Spain_{number}_S1Hand.tif,Spain_{number}_LabelHand.tif\n")
            return f"{root}: the lists of splits name none of its 6 chips, such as Bolivia_6"
        case "file":
            shutil.rmtree(root)
            root.write_text("no folder")
            return f"{root}: no such folder; sen1floods11:DIR needs the one that holds v1.1"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "no labels",
        "empty labels",
        "no images",
        "a name",
        "twice",
        "bands",
        "a label",
        "all ignored",
        "no radar",
        "another place",
        "a list less",
        "a chip in two lists",
        "another list",
        "bytes",
        "lists of others",
        "file",
    ],
)
def test_what_is_refused(tmp_path, what):
    root = write_tree(tmp_path / "tree")
    line = spoil(root, what)
    assert line in refusal(f"sen1floods11:{root}")
