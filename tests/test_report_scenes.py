"""The report of learning on a frozen CLIP: scenes with answers, accuracy by client, bytes by what is trained."""

import json
import re

import numpy as np
import pytest
from test_report import make_run

from mmfl_jax import report
from mmfl_jax.errors import UserError
from mmfl_jax.report.scenes import VIT_B_32, bytes_by_method
from mmfl_jax.runs import predictions

OWN = {"parameters": 560_000, "text_width": 64, "projection": 64, "image_size": 32}
CLASSES = ("forest", "lake", "moors heathland and sclerophyllous vegetation")


def prompt_run(path, clients=4, arrays=("images", "personal"), **clip):
    run = make_run(path, task="multiclass", classes=CLASSES, clients=clients, sets=("rgb",), method="fedrsclip")
    summary = json.loads((run / "summary.json").read_text())
    rng = np.random.default_rng(0)
    personal = rng.uniform(0.2, 0.9, clients)
    summary |= {"clip": OWN | clip, "personal": {"clients": clients, "mean": 0.6125, "worst": 0.2, "std": 0.1}}
    (run / "summary.json").write_text(json.dumps(summary))
    kept = {"personal": personal} if "personal" in arrays else {}
    if "images" in arrays:
        kept |= {"images": rng.integers(0, 255, (9, 16, 16, 3)).astype(np.uint8), "labels": np.arange(9) % 3}
        kept["answers"] = np.array([0, 1, 1, 0, 1, 2, 0, 2, 2])
    np.savez(run / predictions.FILE, **kept)
    return run


def figures(run):
    return {path.stem for path in (run / "figures").iterdir()}


def test_page_shows_scenes_clients_and_bytes(tmp_path):
    run = prompt_run(tmp_path / "run", trained_classes=["forest"])
    page = report.write_report(run).read_text(encoding="utf-8")
    assert {"scenes", "personal", "bytes"} <= figures(run)
    assert page.count("data:image/png;base64,") == len(figures(run))
    assert "<h2>Scenes</h2>" in page
    assert "New to this CLIP, which was trained here on the others: lake, moors" in page
    assert "<td>Mean</td><td>0.613</td>" in page.replace("0.612", "0.613")
    assert not re.search(r"https?://|<script", page)


@pytest.mark.parametrize("clients", [1, 200])
def test_one_client_or_many(tmp_path, clients):
    run = prompt_run(tmp_path / "run", clients=clients, arrays=("personal",))
    page = report.write_report(run).read_text(encoding="utf-8")
    assert "scenes" not in figures(run)
    assert "<h2>Scenes</h2>" not in page
    assert "personal" in figures(run)


def test_bytes_are_those_of_four_byte_numbers():
    prompt, head, whole = bytes_by_method(VIT_B_32, tokens=4, classes=31).values()
    assert (prompt, head, whole) == (2_048 * 4, 513 * 31 * 4, 151_277_313 * 4)


def test_damaged_predictions_are_named(tmp_path):
    run = prompt_run(tmp_path / "run")
    (run / predictions.FILE).write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"predictions\.npz: damaged"):
        report.write_report(run)


def test_scenes_are_spread_over_the_classes():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 40)
    chosen = predictions.spread(np.arange(93), labels, 12)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 4]
    assert (np.diff(labels[chosen]) >= 0).all()
    assert len(predictions.spread(np.array([5, 60]), labels, 12)) == 2


def test_thumbnails_are_means_of_squares():
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)
    small = predictions._thumbnails(images)
    assert small.shape == (2, 112, 112, 3)
    np.testing.assert_allclose(small[0, 0, 0], images[0, :2, :2].mean((0, 1)), atol=0.51)
