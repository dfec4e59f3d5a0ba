"""Algorithms: pure functions of client and server, in the way optax writes its transformations."""

from mmfl_jax.algorithms.algorithm import Algorithm, federated_averaging, proximal
from mmfl_jax.algorithms.registry import Entry, algorithms, find, register

__all__ = ["Algorithm", "Entry", "algorithms", "federated_averaging", "find", "proximal", "register"]
