"""Dynamic World: labels of experts and non-experts in their published folders, joined with images by name."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasters import image, labels, own, refusal, write

from mmfl_jax import Federation, archives
from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.dynamicworld import tree
from mmfl_jax.errors import UserError

EXPERT = ("dw_14.5_47.25-20190412", "dw_-71.3_-33.1-20180803", "dw_14.5_47.25-20190925")
CROWD = ("dw_2.5_9.75-20171201", "dw_14.5_47.25-20190412")
TEST = ("dw_-60.0_-3.5-20190720", "dw_100p25_13p5-20181111")
FOLDERS = {
    EXPERT[0]: "Experts/EH/4",
    EXPERT[1]: "Experts/WH/12",
    EXPERT[2]: "Experts/EH/4",
}


def write_tree(root, size=12):
    places = [(f"{FOLDERS[name]}/{name}", name) for name in EXPERT]
    places += [(f"Non_expert/WorkForce/EH/7/{name}", name) for name in CROWD]
    places += [(f"dw_test/{name}", name) for name in TEST]
    for number, (path, name) in enumerate(places):
        raster = labels(number, size, size, values=(0, 1, 4, 7, 10))
        write(root / f"{path}.tif", raster)
        if name == EXPERT[1]:
            continue  # no radar of this one
        write(root / "S1" / "by date" / f"{name}.tif", image(number, 2, size, size))
    for number, name in enumerate({*EXPERT, *CROWD[:1], *TEST}):
        write(root / "S2" / f"{name}.tif", image(20 + number, 4, size, size, "uint16"))
    rows = [f"{name},20190720T142041,1563632441000" for name in (*TEST, "dw_0.0_0.0-20190101")]
    (root / "dw_test" / "meta.csv").write_text(
        "filename,s2_l2a_system_index,s2_l2a_system_time_start\n" + "\n".join(rows) + "\n"
    )
    return root


def opened(root, **options):
    return archives.open(f"dynamicworld:{root}", **options)


def test_labels_are_joined_with_images(tmp_path):
    root = write_tree(tmp_path / "Dynamic World, é")
    archive = opened(root)
    assert (archive.task, len(archive)) == ("pixel", 7)
    assert list(archive.modalities) == ["s1", "s2"]
    assert archive.class_names == (
        ("water", "trees", "grass", "flooded vegetation", "crops", "scrub", "built", "bare", "snow and ice")
    )
    assert archive.class_colors[0] == "#419bdf"
    rows = list(zip(*(archive.attribute(n).tolist() for n in ("tile", "annotator", "hemisphere", "biome", "place"))))
    assert rows == [
        (EXPERT[0], "expert", "EH", "4", "14.5_47.25"),
        (EXPERT[2], "expert", "EH", "4", "14.5_47.25"),
        (EXPERT[1], "expert", "WH", "12", "-71.3_-33.1"),
        (CROWD[1], "non-expert", "EH", "7", "14.5_47.25"),
        (CROWD[0], "non-expert", "EH", "7", "2.5_9.75"),
        (TEST[0], "consensus", "WH", "unknown", "-60.0_-3.5"),
        (TEST[1], "consensus", "EH", "unknown", "100.25_13.5"),
    ]
    assert archive.splits.tolist() == ["train"] * 5 + ["test"] * 2
    assert archive.absent("s1").tolist() == [False, False, True, False, False, False, False]
    assert not archive.absent("s2").any()
    paths = [FOLDERS.get(t) if a == "expert" else None for t, a, *_ in rows]
    folders = [
        p or ("dw_test" if a == "consensus" else "Non_expert/WorkForce/EH/7") for p, (_, a, *_) in zip(paths, rows)
    ]
    rasters = archive.read_labels(np.arange(7))
    for (tile, *_), folder, raster in zip(rows, folders, rasters):
        truth = own(root / folder / f"{tile}.tif")[..., 0].astype(int)
        np.testing.assert_array_equal(raster, np.where((truth == 0) | (truth == 10), IGNORED, truth - 1))
    optical = archive.read("s2", np.arange(7))
    np.testing.assert_array_equal(optical, [own(root / "S2" / f"{tile}.tif") for tile, *_ in rows])
    assert archive.notes["test_tiles_missing"] == 1
    assert json.loads(json.dumps(archive.describe()))["splits"] == {"test": 2, "train": 5}


def test_owners_and_the_official_split(tmp_path):
    archive = opened(write_tree(tmp_path), modalities=("s2",))
    for attribute, clients in (("biome", 3), ("hemisphere", 2), ("annotator", 2)):
        federation = Federation.split(archive, f"by:{attribute}")
        assert federation.clients == clients
        assert set(archive.attribute("tile")[federation.test]) == set(TEST)
    # Labels of one place by two annotators stay on one side.
    for seed in range(4):
        held_out = np.isin(np.arange(7), Federation.split(archive, clients=1, test_split="0.2", seed=seed).test)
        assert len(set(held_out[archive.attribute("place") == "14.5_47.25"])) == 1


def test_labels_at_test_places_and_without_images_are_left_out(tmp_path):
    root = write_tree(tmp_path)
    write(root / "Experts" / "WH" / "1" / "dw_-60.0_-3.5-20180101.tif", labels(0, 12, 12))
    write(root / "Experts" / "WH" / "1" / "dw_-61.0_-3.5-20180101.tif", labels(0, 12, 12))
    write(root / "S1" / "dw_-60.0_-3.5-20180101.tif", image(0, 2, 12, 12))
    write(root / "dw_test" / "dw_5.0_5.0-20190101.tif", labels(0, 12, 12))  # not in meta.csv
    archive = opened(root)
    assert len(archive) == 7
    assert archive.notes["left_out_at_test_places"] == 1
    assert archive.notes["labels_without_image"] == 1


def test_experts_alone_have_no_official_split(tmp_path):
    root = write_tree(tmp_path)
    shutil.rmtree(root / "dw_test")
    shutil.rmtree(root / "Non_expert")
    archive = opened(root, image_size=8)
    assert (len(archive), archive.splits) == (3, None)
    assert archive.notes["pixels_beside_blocks"] == pytest.approx(1 - 64 / 144, abs=1e-4)
    (root / "validation").mkdir()  # never images
    write(root / "validation" / f"{EXPERT[0]}.tif", labels(0, 12, 12))
    assert list(opened(root).modalities) == ["s1", "s2"]


@given(
    st.floats(-180, 180).map(lambda x: round(x, 4)),
    st.floats(-90, 90).map(lambda x: round(x, 4)),
    st.sampled_from([".", "p"]),
)
def test_names_tell_the_place(longitude, latitude, point):
    name = f"dw_{longitude:f}_{latitude:f}-20190101".replace(".", point)
    label = tree._label(name, f"{name}.tif", "expert")
    assert [float(number) for number in label.place.split("_")] == [longitude, latitude]
    assert label.hemisphere == ("EH" if longitude >= 0 or f"{longitude:f}" == "-0.000000" else "WH")


@given(st.text(max_size=30))
def test_other_names_are_refused(name):
    if tree.NAME.fullmatch(name.split("/")[-1]):
        return
    with pytest.raises(UserError, match="are called dw_LON_LAT-YYYYMMDD"):
        tree._label(name, "path", "expert")


def spoil(root, what):
    expert = root / "Experts" / "EH" / "4" / f"{EXPERT[0]}.tif"
    match what:
        case "no labels":
            for folder in ("Experts", "Non_expert", "dw_test"):
                shutil.rmtree(root / folder)
            return f"{root}: no label raster; it should hold Dynamic World's Experts, Non_expert or dw_test"
        case "no images":
            shutil.rmtree(root / "S1")
            shutil.rmtree(root / "S2")
            return (
                f"{root}: labels but no images; put Sentinel-1 and Sentinel-2 tiles of the labels' names (such as dw_"
            )
        case "images of other names":
            shutil.rmtree(root / "S1")
            write(root / "S1" / "x.tif", image(0))
            return f"{root}/S1: no image has the name of a label, such as {EXPERT[0]}; it has such as x"
        case "empty images":
            shutil.rmtree(root / "S1")
            (root / "S1").mkdir()
            return f"{root}/S1: no image has the name of a label, such as {EXPERT[0]}; it has no GeoTIFF at all"
        case "a name":
            expert.rename(expert.with_name("tile 7.tif"))
            return f"{expert.parent}/tile 7.tif: Dynamic World's labels are called dw_LON_LAT-YYYYMMDD, such as"
        case "an expert twice":
            shutil.copy(expert, root / "Experts" / "WH")
            return f"{root}/Experts/WH/{EXPERT[0]}.tif: {expert} has the same name; take one of them away"
        case "an image twice":
            shutil.copy(root / "S1" / "by date" / f"{EXPERT[0]}.tif", root / "S1")
            return f"{root}/S1/by date/{EXPERT[0]}.tif has the same name; take one of them away"
        case "a label":
            write(expert, labels(0, 12, 12, values=(1, 11)))
            count = int((own(expert) == 11).sum())
            return (
                f"{expert}: {count} pixels have the label 11, which Dynamic World does not know; it has 1, 2, 3, 4, 5,"
            )
        case "all ignored":
            for path in [*root.glob("*xpert*/**/*.tif"), *root.glob("dw_test/*.tif")]:
                write(path, labels(0, 12, 12, values=(0, 10)))
            return f"{root}: all pixels of 7 label rasters are ignored (0, 10); two classes are needed"
        case "another place":
            write(root / "S2" / f"{EXPERT[0]}.tif", image(0, 4, 12, 12, "uint16"), origin=(100000, 100000))
            return f"{root}/S2/{EXPERT[0]}.tif: does not overlap with its labels in "
        case "no test tile":
            for path in (root / "dw_test").glob("*.tif"):
                path.unlink()
            write(root / "dw_test" / "dw_1.0_1.0-20190101.tif", labels(0))
            return f"{root}/dw_test/meta.csv: none of its 3 tiles is in {root}/dw_test, which has dw_1.0_1.0-20190101"
        case "another table":
            (root / "dw_test" / "meta.csv").write_text("tile\nx\n")
            return f"{root}/dw_test/meta.csv: no column filename with names of tiles; take the published file"
        case "bytes":
            (root / "dw_test" / "meta.csv").write_bytes(b"filename\n\xff\xfe")
            return f"{root}/dw_test/meta.csv: cannot be read as csv in UTF-8 ("
        case "one modality twice":
            shutil.copytree(root / "S1", root / "s1")
            return f"{root}/s1: the modality of {root}/S1 as well; rename one of the folders"
        case "file":
            shutil.rmtree(root)
            root.write_text("no folder")
            return f"{root}: no such folder; dynamicworld:DIR needs the one that holds the labels"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "no labels",
        "no images",
        "images of other names",
        "empty images",
        "a name",
        "an expert twice",
        "an image twice",
        "a label",
        "all ignored",
        "another place",
        "no test tile",
        "another table",
        "bytes",
        "one modality twice",
        "file",
    ],
)
def test_what_is_refused(tmp_path, what):
    root = write_tree(tmp_path / "tree")
    line = spoil(root, what)
    assert line in refusal(f"dynamicworld:{root}")


def test_a_damaged_label_and_image_are_left_out(tmp_path):
    root = write_tree(tmp_path)
    (root / "Non_expert" / "WorkForce" / "EH" / "7" / f"{CROWD[0]}.tif").write_bytes(b"")
    (root / "S2" / f"{EXPERT[1]}.tif").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 of 20 files cannot be read and are left out"):
        archive = opened(root)
    # The one's label and the other's only image are gone.
    assert CROWD[0] not in archive.attribute("tile")
    assert EXPERT[1] not in archive.attribute("tile")
    assert archive.notes["left_out_without_image"] == 1
