"""Folders of tiles: a folder for each modality and one for label rasters, equal file names."""

from mmfl_jax.archives.tiles.folders import open_tiles

__all__ = ["open_tiles"]
