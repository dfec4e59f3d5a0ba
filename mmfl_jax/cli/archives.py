"""Commands on archives: prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from mmfl_jax.cli.streams import say
from mmfl_jax.errors import UserError


def prepare(
    source: Annotated[str, Positional],
    output: Path,
    modalities: str = "",
    image_size: int = 0,
    bands: Literal[10, 12] = 12,
    workers: int = 0,
    quiet: bool = False,
) -> None:
    """Copy an archive into a TFDS data set from which it is read many times faster; the same command goes on.

    Args:
        source: the archive, such as bigearthnet:DIR.
        output: directory of the copy; it opens as KIND:DIR, too.
        modalities: to copy, such as s1,s2; empty for all.
        image_size: bring images to this many pixels a side; 0 keeps their own size, as BigEarthNet always does.
        bands: of Sentinel-2 in BigEarthNet: 12, or 10 without the 60 m bands.
        workers: processes that read and write; 0 for one a core.
        quiet: show no progress.
    """
    from mmfl_jax.archives.prepared.layout import DAMAGED
    from mmfl_jax.archives.prepared.prepare import prepare
    from mmfl_jax.report.counting import Counting

    if workers < 0:
        raise UserError(f"--workers {workers}: at least 1, or 0 for one a core")
    with Counting("samples", quiet) as counting:
        done = prepare(
            source,
            output,
            modalities=[name.strip() for name in modalities.split(",")] if modalities else None,
            image_size=image_size or None,
            bands=bands,
            workers=workers,
            progress=counting,
        )
    if done["damaged"]:
        say(f"{done['damaged']} samples are damaged and left out; {output / DAMAGED} says which and why")
    if done["with_missing_pixels"]:
        say(f"{done['with_missing_pixels']} samples have pixels that are no measurements; they count as missing")
    kind = source.partition(":")[0]
    print(f"{done['samples']} samples, {done['bytes'] / 1e9:.2f} GB, in {output}; open them as {kind}:{output}")
