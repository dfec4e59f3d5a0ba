"""Sen1Floods11: hand-labelled floods with Sentinel-1 and Sentinel-2, by country."""

from mmfl_jax.archives.sen1floods11.tree import open_sen1floods11

__all__ = ["open_sen1floods11"]
