"""Studies: options in groups that check themselves, the files that assign them, and from options to objects."""

from mmfl_jax.study.files import experiments, load_study
from mmfl_jax.study.study import OPTIONS, Option, Study, flattened

__all__ = ["OPTIONS", "Option", "Study", "experiments", "flattened", "load_study"]
