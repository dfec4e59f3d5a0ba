"""Methods: which model, objectives and scopes clients learn with."""

from mmfl_jax.methods.method import Method, Recipe
from mmfl_jax.methods.registry import find, methods, register

__all__ = ["Method", "Recipe", "find", "methods", "register"]
