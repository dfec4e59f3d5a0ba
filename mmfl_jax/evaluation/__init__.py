"""Evaluation: metrics, and the scores of a model for every modality set."""

from mmfl_jax.evaluation.evaluate import Evaluator, modality_sets, set_name
from mmfl_jax.evaluation.scorer import Scorer

__all__ = ["Evaluator", "Scorer", "modality_sets", "set_name"]
