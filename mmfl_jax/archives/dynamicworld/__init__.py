"""Dynamic World's labels by experts and non-experts, joined with images of the same names."""

from mmfl_jax.archives.dynamicworld.tree import open_dynamicworld

__all__ = ["open_dynamicworld"]
