"""A run of labels by pixel from its study to report, maps of scenes, and the table of a run of patches."""

import csv
import json

import numpy as np
import pytest
import rasterio
from federations import write_study
from maps_scenes import write_raster

import mmfl_jax as mm
from mmfl_jax.cli import main
from mmfl_jax.errors import UserError
from mmfl_jax.runs import load, predictions

SIDE = 16
SMALL = {
    "archive": "twintiles",
    "image_size": SIDE,
    "samples": 200,
    "partition": "ds2",
    "encoder": "resnet6",
    "rounds": 1,
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("land") / "run"
    study = mm.Study.of(**SMALL, method="mf", flips=True, batch_size=8, devices=1)
    mm.Simulation(study).run(folder, report=True)
    return folder


@pytest.fixture(scope="module")
def model(run_dir):
    return load(run_dir, training=False)


def test_summary_and_report_are_of_pixels(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    for scores in summary["evaluation"].values():
        assert 0 <= scores["miou"] <= scores["accuracy"] <= 1
        assert sum(map(sum, scores["confusion"])) == sum(scores["support"])
    assert "every pixel" in summary["baseline"]["rule"]
    page = (run_dir / "report.html").read_text()
    assert "<h2>Maps</h2>" in page
    assert {f"{name}.png" for name in ("tiles", "iou", "confusion", "classes")} <= {
        file.name for file in (run_dir / "figures").iterdir()
    }


def test_shown_tiles_are_answered_as_the_model_does(run_dir, model):
    kept = predictions.load(run_dir, 8)
    assert kept["tile_sets"].tolist() == ["s1", "s2", "s1+s2"]
    right = model.test_tiles()
    # The best and the worst of all that are labelled well enough are among them.
    archive, test = model.federation.archive, model.federation.test
    labelled = archive.labels[test].sum(axis=1)
    known = right[labelled >= labelled.max() / 4]
    assert kept["tile_accuracy"][-1].min() == pytest.approx(known.min(), abs=0.02)
    assert kept["tile_accuracy"][-1].max() == pytest.approx(known.max(), abs=0.02)


def test_a_loaded_run_scores_as_it_did(run_dir, model):
    summary = json.loads((run_dir / "summary.json").read_text())
    for name, scores in model.evaluate().items():
        assert scores["miou"] == pytest.approx(summary["evaluation"][name]["miou"], abs=1e-3)


def test_scores_are_those_of_all_answers_together(model):
    archive, test = model.federation.archive, model.federation.test
    answers = model.predict(test).argmax(axis=-1)
    labels = archive.read_labels(test)
    found = model.evaluate()["s1+s2"]
    assert found["accuracy"] == pytest.approx((answers == labels)[labels != 255].mean(), abs=1e-3)


@pytest.mark.parametrize("seen", [("s1",), ("s2",), ("s1", "s2")])
def test_a_map_is_what_the_model_answers(run_dir, model, tmp_path, seen):
    archive = model.federation.archive
    (sample,) = model.federation.test[:1]
    for m in seen:
        image, names = archive.read(m, np.array([sample]))[0], archive.modalities[m].channels
        write_raster(tmp_path / "in" / m / "place.tif", image, names=names)
    main(["predict", str(run_dir), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--quiet"])
    with rasterio.open(tmp_path / "out" / "place.tif") as file:
        found = file.read(1)
        assert file.crs.to_epsg() == 32633
    np.testing.assert_array_equal(found, model.predict(np.array([sample]), seen)[0].argmax(axis=-1))


def test_patches_become_a_table(tmp_path, capsys):
    study = write_study(tmp_path)
    main(["run", str(study), "--run-dir", str(tmp_path / "run"), "--quiet"])
    source = tmp_path / "archive.npz"
    main(
        ["predict", str(tmp_path / "run"), "--input", str(source), "--output", str(tmp_path / "out"), "--format", "csv"]
    )
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    simulation = load(tmp_path / "run", training=False)
    expected = simulation.predict(np.arange(len(rows)))
    names = simulation.federation.archive.class_names
    np.testing.assert_allclose([[float(row[name]) for name in names] for row in rows], expected, atol=1e-6)
    assert [row["id"] for row in rows] == [str(i) for i in range(120)]
    assert "predictions.csv" in capsys.readouterr().out


def test_options_that_labels_by_pixel_do_not_take():
    with pytest.raises(UserError, match="--mim-level pixel needs labels by pixel"):
        mm.Simulation(mm.Study.of(archive="twin", image_size=16, samples=200, method="mf+mim", mim_level="pixel"))
    with pytest.raises(UserError, match=r"--crop 99: .* 16"):
        mm.Simulation(mm.Study.of(**SMALL, crop=99))
    with pytest.raises(UserError, match="--method fedrsclip"):
        mm.Simulation(mm.Study.of(**SMALL, method="fedrsclip"))
