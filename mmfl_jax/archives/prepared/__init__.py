"""Prepared copies: a TFDS data set of an archive's raw arrays, from which reading is a copy of memory.

``prepare`` writes one, ``open_prepared`` opens it under its source's reference. A copy's directory holds::

    prepared.json            what it is a copy of, and whether it is whole
    samples.parquet          labels, attributes and splits of the samples, and where their arrays lie
    damaged.json             the samples that were left out, and why
    NAME/1.0.0/              the data set that ``tfds.data_source(NAME, data_dir=DIRECTORY)`` reads
    unfinished/              while it is written: which shards are whole
"""

from mmfl_jax.archives.prepared.layout import is_prepared

__all__ = ["is_prepared"]
