"""Algorithms: how a federation optimises, as pure functions of client and server, in the way optax writes its own."""

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, add_change, change, difference, zeros
from mmfl_jax.algorithms.reduce import Reduce
from mmfl_jax.algorithms.registry import Entry, algorithms, find, register
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.algorithms.transforms import Transform

__all__ = [
    "Aggregate",
    "Algorithm",
    "Entry",
    "Local",
    "Reduce",
    "Setting",
    "Transform",
    "add_change",
    "algorithms",
    "change",
    "difference",
    "find",
    "register",
    "zeros",
]
