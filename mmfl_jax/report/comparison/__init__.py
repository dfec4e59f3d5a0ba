"""Compare runs: scores, what they cost, differences with intervals, as rows, tables and figures."""

from mmfl_jax.report.comparison.figures import write_comparison
from mmfl_jax.report.comparison.rows import compare
from mmfl_jax.report.comparison.tables import comparison_markdown, comparison_table, comparison_tables
from mmfl_jax.report.comparison.targets import parse_target

__all__ = [
    "compare",
    "comparison_markdown",
    "comparison_table",
    "comparison_tables",
    "parse_target",
    "write_comparison",
]
