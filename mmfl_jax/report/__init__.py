"""Show runs: progress on the terminal, figures, an offline page, comparisons and TensorBoard files.

matplotlib, rich and tensorboard are imported where they are used, so the engine runs without them.
"""

from mmfl_jax.report.comparison import compare, comparison_table, write_comparison
from mmfl_jax.report.page import write_report
from mmfl_jax.report.run_directory import RunRecord, read_run
from mmfl_jax.report.tensorboard import TensorBoardWriter
from mmfl_jax.report.terminal import RoundProgress, result_table

__all__ = [
    "RoundProgress",
    "RunRecord",
    "TensorBoardWriter",
    "compare",
    "comparison_table",
    "read_run",
    "result_table",
    "write_comparison",
    "write_report",
]
