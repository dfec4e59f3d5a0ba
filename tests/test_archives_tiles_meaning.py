"""What values of label rasters mean, and what a table says of tiles."""

import contextlib
import shutil

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasters import NAMES, image, labels, refusal, tree, write

from mmfl_jax import Federation, archives
from mmfl_jax.archives.base import IGNORED
from mmfl_jax.archives.rasters.legend import read_legend
from mmfl_jax.errors import UserError


def opened(root, **options):
    return archives.open(f"tiles:{root}", **options)


def error(root, **options):
    return refusal(f"tiles:{root}", **options)


def test_nodata_255_and_negative_values_are_no_label(tmp_path):
    rasters = {"a": labels(0, values=(0, 1, 3, 255)), "b": labels(1, values=(0, 1, 3))}
    for name, raster in rasters.items():
        write(tmp_path / "s1" / f"{name}.tif", image(0))
        # What one file calls nodata may be a class in another.
        write(tmp_path / "labels" / f"{name}.tif", raster, nodata=0 if name == "a" else None)
    archive = opened(tmp_path)
    assert archive.class_names == ("class 0", "class 1", "class 3")
    found = archive.read_labels([0, 1])
    np.testing.assert_array_equal(found[0] == IGNORED, np.isin(rasters["a"], (0, 255)))
    np.testing.assert_array_equal(found[1], np.searchsorted([0, 1, 3], rasters["b"]))
    assert archive.labels.sum(1).tolist() == [(found[0] != IGNORED).sum(), 256]


def test_classes_are_those_of_samples_where_no_legend_says_more(tmp_path):
    for name, values in (("a", (0, 1, 4)), ("b", (1, 4)), ("c", (1, 4, 9))):
        write(tmp_path / "labels" / f"{name}.tif", labels(0, values=values))
        if name != "c":  # a label without an image is no sample
            write(tmp_path / "s1" / f"{name}.tif", image(0))
    archive = opened(tmp_path)
    assert archive.class_names == ("class 0", "class 1", "class 4")
    assert archive.labels.shape == (2, 3)
    (tmp_path / "classes.csv").write_text("value,name\n0,land\n1,water\n4,ice\n9,cloud\n")
    assert opened(tmp_path).labels[:, 3].tolist() == [0, 0]
    (tmp_path / "classes.csv").unlink()
    for name in "ab":
        write(tmp_path / "labels" / f"{name}.tif", np.full((16, 16), 4, np.uint8))
    assert "one class alone in the label rasters, 'class 4'" in error(tmp_path)


def test_lulc_is_assumed_to_be_land_cover_where_its_values_fit(tmp_path):
    write(tmp_path / "s1" / "a.tif", image(0))
    write(tmp_path / "LULC" / "a.tif", labels(0, values=(0, 1, 5, 9)))
    archive = opened(tmp_path)
    assert archive.class_names == ("water", "built", "rangeland")
    assert archive.class_colors == ("#419bdf", "#c4281b", "#e3e2c3")
    write(tmp_path / "LULC" / "a.tif", labels(0, values=(1, 5, 10)))
    assert opened(tmp_path).class_names == ("class 1", "class 5", "class 10")


def test_a_legend_names_and_ignores(tmp_path):
    write(tmp_path / "s1" / "a.tif", image(0))
    write(tmp_path / "labels" / "a.tif", raster := labels(0, values=(-1, 0, 3, 300), dtype="int16"), nodata=0)
    legend = tmp_path / "classes.csv"
    legend.write_text("value, name, color\n300,forêt,#397D49\n0,land,#c9b58f\n2,snow,#ffffff\n3,,\n-1,,\n", "utf-8")
    archive = opened(tmp_path)
    assert archive.class_names == ("land", "snow", "forêt")
    assert archive.class_colors == ("#c9b58f", "#ffffff", "#397d49")
    expected = np.select([raster == 0, raster == 300], [0, 2], IGNORED)
    np.testing.assert_array_equal(archive.read_labels([0])[0], expected)
    assert archive.labels.tolist() == [[(raster == 0).sum(), 0, (raster == 300).sum()]]
    legend.write_text("value,name\n0,land\n300,water\n3,\n")
    count = int((raster == -1).sum())
    assert error(tmp_path) == (
        f"{tmp_path}/labels/a.tif: {count} pixels have the label -1, which classes.csv does not know; it has 0, 300, "
        "and ignores 3"
    )


@given(st.binary(max_size=200) | st.text(alphabet='valuenmecor,;"\n#0123456789ab- ', max_size=200).map(str.encode))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_legend_is_read_or_refused_on_one_line(tmp_path, data):
    path = tmp_path / "classes.csv"
    for header in (b"", b"value,name,color\n"):
        path.write_bytes(header + data)
        with contextlib.suppress(UserError):
            legend = read_legend(str(path))
            assert len(legend.values) == len(legend.names) >= 2
            assert sorted(set(legend.values)) == list(legend.values)


@pytest.mark.parametrize(
    "text, line",
    [
        ("name\nwater\n", "columns name; value, name and perhaps color are needed"),
        ("", "columns none; value, name"),
        ("value,name\none,water\n", "row 1 has value 'one'; a whole number is needed"),
        ("value,name\n1,water\n1,land\n", "value 1 is there twice"),
        ("value,name\n1,water\n2,water\n", "two values are called 'water'"),
        ("value,name,color\n1,water,blue\n2,land,#000000\n", "value 1 has the colour 'blue'; #rrggbb is needed"),
        ("value,name,color\n1,water,\n2,land,#000000\n", "value 1 has no colour, others have one"),
        ("value,name\n1,water\n", "1 classes; 2 to 255 are needed"),
        ("value,name\n1,water\n70000,land\n", "2 classes; 2 to 255 are needed, values less than 65536 apart"),
    ],
)
def test_legends_that_are_refused(tmp_path, text, line):
    (tree(tmp_path, NAMES[:1]) / "classes.csv").write_text(text)
    assert line in error(tmp_path)


def write_table(root, rows, name):
    table = pyarrow.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, root / name)
    else:
        pyarrow.csv.write_csv(table, root / name)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.parquet"])
def test_a_table_gives_attributes_and_splits(tmp_path, name):
    root = tree(tmp_path)
    splits = ("train", "test", "validation", "train")
    rows = [
        {"file": f"{tile}.tif", "owner": f"land {i % 2}", "year": 2017 + i, "split": splits[i]}
        for i, tile in enumerate((*NAMES[::-1],))
    ]
    write_table(root, [*rows, {"file": "elsewhere.tif", "owner": "x", "year": 1, "split": "train"}], name)
    archive = opened(root, image_size=8)
    assert len(archive) == 16
    by_tile = dict(zip(archive.attribute("tile"), zip(archive.attribute("owner"), archive.attribute("year"))))
    assert by_tile == {"west": ("land 0", 2017), "south": ("land 1", 2018), "east": ("land 0", 2019)} | {
        "north": ("land 1", 2020)
    }
    assert dict(zip(archive.attribute("tile"), archive.splits)) == dict(zip(NAMES[::-1], splits))
    assert archive.notes["rows_without_tile"] == 1
    federation = Federation.split(archive, "by:owner")
    assert federation.clients == 2
    assert set(archive.attribute("tile")[federation.test]) == {"south"}
    blocks = Federation.split(archive, "by:tile+block", test_split="0.25")
    assert (blocks.clients, len(blocks.test)) == (12, 4)


@pytest.mark.parametrize(
    "rows, line",
    [
        ([{"name": "north", "owner": "a"}], "columns name, owner; one has to name the tile: tile, file, filename"),
        ([{"tile": "north", "owner": "a"}], "1 of 2 tiles have no row in column tile, first 'east'"),
        ([{"tile": "north"}, {"tile": "north.tif"}, {"tile": "east"}], "tile 'north' has two rows"),
        ([{"tile": "north", "owner": "a"}, {"tile": "east", "owner": ""}], "column 'owner' has no value in row 2"),
        ([{"tile": "north", "year": 1}, {"tile": "east", "year": None}], "column 'year' has no value in row 2"),
        ([{"file": "north", "block": 1}, {"file": "east", "block": 1}], "a column is called 'block', which is taken"),
        ([{"tile": "north", "split": "dev"}, {"tile": "east", "split": "test"}], "split holds ['dev']; each must be"),
    ],
)
def test_tables_that_are_refused(tmp_path, rows, line):
    write_table(tree(tmp_path, NAMES[:2]), rows, "metadata.csv")
    assert line in error(tmp_path)
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata.parquet")
    assert "cannot be read as a table" in error(tmp_path)
    shutil.copy(tmp_path / "metadata.parquet", tmp_path / "metadata.csv")
    assert "metadata.csv and metadata.parquet are both there; keep one" in error(tmp_path)
