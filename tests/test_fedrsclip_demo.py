"""The demo of prompt learning from scenes to page, in small, and its studies."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

from mmfl_jax import Simulation, Study
from mmfl_jax.models import clip
from mmfl_jax.models.clip.pretrain import SMALL
from mmfl_jax.runs import predictions
from mmfl_jax.study import experiments, load_study

TEENY = dataclasses.replace(
    SMALL, vision=clip.TowerConfig(16, 1, 2, 32), text=clip.TowerConfig(16, 1, 2, 32), image_size=16, projection=8
)


def test_a_run_leaves_what_its_page_shows(tmp_path):
    folder = clip.save(clip.CLIP(TEENY, rngs=nnx.Rngs(0)), tmp_path / "clip", trained_classes=["pastures"])
    study = Study.of(
        archive="twinscenes",
        samples=84,
        clip=str(folder),
        method="fedrsclip",
        partition="dirichlet:1",
        clients=3,
        test_split="0.5",
        rounds=1,
        local_steps=1,
    )
    summary = Simulation(study).run(tmp_path / "run")
    kept = predictions.load(tmp_path / "run", 14)
    assert kept["images"].shape == (24, 16, 16, 3)
    assert kept["images"].std() > 10
    assert kept["personal"].shape == (3,)
    np.testing.assert_allclose(np.nanmean(kept["personal"]), summary["personal"]["mean"], rtol=1e-5)
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["clip"]
    assert (told["text_width"], told["projection"], told["trained_classes"]) == (16, 8, ["pastures"])
    assert summary["communication"]["bytes_up_per_client"] == 4 * 4 * 16
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Scenes</h2>" in page
    assert {"scenes", "personal", "bytes"} <= {path.stem for path in (tmp_path / "run" / "figures").iterdir()}


@pytest.mark.parametrize("name", ["fedrsclip_demo", "fedrsclip_optimal31", "fedrsclip_ucmerced", "fedrsclip_nwpu"])
def test_studies_are_found_by_name(name):
    assert name in experiments()
    assert load_study(name).name == name
    assert load_study(name).method.method == "fedrsclip"
