"""Train a small CLIP on half of an archive's classes, for prompt learning on the others where no weights are at hand.

Command: python experiments/small_clip.py OUTPUT [--archive scenes:DIR] [--steps 800] [--classes "forest,lake"]
  then: mmfl-jax run fedrsclip_demo --clip OUTPUT [--archive scenes:DIR]
"""

import argparse
import dataclasses
from pathlib import Path

from mmfl_jax import archives
from mmfl_jax.errors import told_in_one_line
from mmfl_jax.models.clip.pretrain import IMAGE_SEED, SMALL, SMALL_SAMPLES, Training, half, train
from mmfl_jax.models.clip.save import save


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to make")
    parser.add_argument("--archive", default="twinscenes", help="of scenes with one class each")
    parser.add_argument("--classes", default="", help="to train on, comma between; by default every second one")
    parser.add_argument("--samples", type=int, default=0, help="at most; 0 for all, or 6,000 of the twin")
    parser.add_argument("--image-size", type=int, default=SMALL.image_size)
    for field in dataclasses.fields(Training):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    options = parser.parse_args()
    generated = options.archive == "twinscenes"
    archive = archives.open(
        options.archive,
        image_size=options.image_size,
        samples=options.samples or (SMALL_SAMPLES if generated else None),
        seed=IMAGE_SEED,
    )
    classes = [name.strip() for name in options.classes.split(",")] if options.classes else half(archive.class_names)
    training = Training(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Training)})
    config = dataclasses.replace(SMALL, image_size=options.image_size)
    model = train(archive, classes, config, training, quiet=False)
    print(f"{save(model, options.output, trained_classes=list(classes))}: trained on {', '.join(classes)}")


if __name__ == "__main__":
    with told_in_one_line():
        main()
