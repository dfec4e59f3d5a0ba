"""Scenes and weights of CLIP that are wrong in some way: what each is answered with, in one line."""

import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from mmfl_jax import archives
from mmfl_jax.errors import UserError
from mmfl_jax.federation.holdout import train_and_test
from mmfl_jax.models import clip

DATA = Path(__file__).parents[1] / "data" / "clip" / "hugging_face"


def refusal(reference):
    with pytest.raises(UserError) as caught:
        archives.open(reference, image_size=16)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(root, *folders, images=3):
    """Write scenes into folders; every image is another one."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(images):
            rng = np.random.default_rng(zlib.crc32(f"{folder}/{number}".encode()))
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(root / folder / f"{number}.png")
    return root


@pytest.mark.parametrize("location", ["{0},", ",{0}", "{0},,{0}/x", ",", " , "])
def test_a_comma_too_many_does_not_read_the_current_folder(tmp_path, monkeypatch, location):
    monkeypatch.chdir(write(tmp_path, "lake", "river"))
    assert "a directory is missing beside a comma; write scenes:DIR1,DIR2" in refusal(
        f"scenes:{location.format(tmp_path)}"
    )


def test_an_empty_location(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, "lake", "river"))
    assert refusal("scenes: ") == "archive 'scenes': a location is missing; write scenes:DIR"


def test_a_link_to_itself(tmp_path):
    loop = write(tmp_path, "lake", "river") / "loop"
    loop.symlink_to(loop)
    assert "cannot be listed (Too many levels of symbolic links)" in refusal(f"scenes:{tmp_path}")


def test_images_that_would_count_twice(tmp_path):
    write(tmp_path / "Images", "lake", "river")
    (tmp_path / "again").symlink_to(tmp_path / "Images")
    assert "again/lake: the same folder as" in refusal(f"scenes:{tmp_path}")
    (tmp_path / "again").unlink()
    (tmp_path / "Images" / "sea").symlink_to(tmp_path / "Images" / "lake")
    assert "Images/sea: the same folder as" in refusal(f"scenes:{tmp_path}")


@pytest.mark.parametrize("name", [b"sea\nice", b"sea\xffice", b"sea\x1b[31m"])
def test_names_that_cannot_be_shown(tmp_path, name):
    write(tmp_path, "lake", "river")
    shutil.copytree(tmp_path / "lake", os.path.join(os.fsencode(tmp_path), name).decode(errors="surrogateescape"))
    assert "a name with characters that cannot be shown; rename it" in refusal(f"scenes:{tmp_path}")


def test_paths_that_are_none():
    for location in ("a" * 5000, "a\0b", "\udcff", "/dev/null"):
        assert "no such folder" in refusal(f"scenes:{location}")


def test_the_same_image_on_both_sides(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split, f"{split}_lake", f"{split}_river")
    shutil.copy(tmp_path / "train" / "train_lake" / "0.png", tmp_path / "test" / "test_lake" / "copy.png")
    archive = archives.open(f"scenes:{tmp_path}", image_size=16)
    with pytest.raises(UserError, match="1 of 7 test samples have the same images as training samples"):
        train_and_test(archive, "auto", 0)
    for seed in range(5):
        _, test = train_and_test(archive, "0.3", seed)
        files = [Path(file).name for file in archive.attribute("file")[test]]
        assert ("copy.png" in files) == any(f.endswith("train_lake/0.png") for f in archive.attribute("file")[test])


def test_one_damaged_scene_among_many_is_left_out_and_listed(tmp_path):
    """Bytes in the middle of a file, whose beginning and end are whole."""
    write(tmp_path, "lake", "river", images=20)
    path = tmp_path / "lake" / "7.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    Image.fromarray(np.zeros((2, 200, 3), np.uint8)).save(tmp_path / "lake" / "long.png")
    with pytest.warns(UserWarning, match="2 of 41 images cannot be read and are left out: lake/7.png, lake/long.png"):
        archive = archives.open(f"scenes:{tmp_path}", image_size=16)
    assert list(archive.notes["left_out_unreadable"]) == [str(path), str(tmp_path / "lake" / "long.png")]
    assert archive.read("rgb", np.arange(39)).shape == (39, 16, 16, 3)


def change(directory, edit):
    shutil.copytree(DATA, directory)
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(UserError) as caught:
        clip.load(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(tmp_path, value):
    def edit(tensors):
        tensors["text_projection.weight"][2, 3:5] = value

    line = change(tmp_path / "clip", edit)
    assert "model.safetensors: text_projection.weight: 2 of " in line
    assert line.endswith("weights are no finite numbers; the file is damaged or diverged")


def test_weights_beyond_float32(tmp_path):
    double = {"text_projection.weight": np.full((20, 24), 1e300)}
    assert "text_projection.weight: 480 of 480 weights are no finite" in change(
        tmp_path / "clip", lambda t: t.update(double)
    )


def test_weights_of_eight_bits(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"text_projection.weight": np.zeros(4, np.int8)}, path)
    content = path.read_bytes().replace(b'"I8"', b'"F8_E4M3"')
    length = int.from_bytes(content[:8], "little") + len("F8_E4M3") - len("I8")
    path.write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(UserError, match=r"text_projection.weight holds F8_E4M3; save the weights as one of: F16, BF16"):
        clip.load(path)


@pytest.mark.parametrize("number", ["999999", "9" * 5000])
def test_blocks_of_absurd_numbers(tmp_path, number):
    name = f"text_model.encoder.layers.{number}.mlp.fc2.bias"
    source = "text_model.encoder.layers.0.self_attn.out_proj.weight".replace("layers.0", f"layers.{number}")
    extra = {name: np.zeros(24, np.float32), source: np.zeros((24, 24), np.float32)}
    line = change(tmp_path / "clip", lambda tensors: tensors.update(extra))
    assert f"a block of the text tower has number {number[:20]}, more than there are tensors" in line
