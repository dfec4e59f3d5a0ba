"""Evaluation: metrics, and the scores of a model for every modality set."""

from mmfl_jax.evaluation.evaluate import Evaluator, modality_sets, set_name

__all__ = ["Evaluator", "modality_sets", "set_name"]
