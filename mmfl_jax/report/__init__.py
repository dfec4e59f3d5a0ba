"""Show runs: progress on the terminal, figures, an offline page, comparisons and TensorBoard files.

matplotlib, rich and tensorboard are imported where they are used, so the engine runs without them.
"""

from mmfl_jax.report.comparison import (
    compare,
    comparison_markdown,
    comparison_table,
    comparison_tables,
    parse_target,
    write_comparison,
)
from mmfl_jax.report.page import write_report
from mmfl_jax.report.tensorboard import TensorBoardWriter
from mmfl_jax.report.terminal import RoundProgress, result_table
from mmfl_jax.runs.record import RunRecord, read_run

__all__ = [
    "RoundProgress",
    "RunRecord",
    "TensorBoardWriter",
    "compare",
    "comparison_markdown",
    "comparison_table",
    "comparison_tables",
    "parse_target",
    "read_run",
    "result_table",
    "write_comparison",
    "write_report",
]
