"""Write a comparison as tables: for the terminal, and in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmfl_jax.report.comparison.groups import told
from mmfl_jax.report.presentation import (
    METRICS,
    MISSING,
    main_metrics,
    scaled_text,
    seconds_text,
    shown_sets,
)
from mmfl_jax.runs.values import fused_set, is_number, ordered_sets

if TYPE_CHECKING:
    from rich.table import Table

Row = dict[str, Any]
# Sets beside which differences with their intervals still fit into 100 columns.
_MOST_SETS = 3
# Columns of a terminal that is wide enough for an interval beside its difference.
_WIDE = 100


@dataclasses.dataclass(frozen=True)
class _Sheet:
    """Hold a table: a line of title, and rows whose first cell is a name with facts under it.

    Attributes:
      title: what it shows.
      head: of the columns after the first.
      rows: name, facts, and the other cells, each of one or more lines.
      left: columns after the first that are words.
    """

    title: str
    head: list[str]
    rows: list[tuple[str, str, list[list[str]]]]
    left: int = 0


def comparison_table(rows: Sequence[Row]) -> Table:
    """Return the scores of the rows of ``compare`` as a table for the terminal."""
    return _for_terminal(_scores(rows))


def comparison_tables(rows: Sequence[Row], width: int | None = None) -> list[Table]:
    """Return scores, cost to the target and paired differences as tables for the terminal, those that say something.

    Args:
      rows: of ``compare``.
      width: columns of the terminal, None for this one's; in a narrow one intervals stand under their differences.
    """
    from rich.console import Console

    narrow = (width or Console().width) < _WIDE
    return [_for_terminal(_narrowed(sheet) if narrow else sheet) for sheet in _sheets(rows)]


def comparison_markdown(rows: Sequence[Row]) -> str:
    """Return scores, cost to the target and paired differences in Markdown."""
    return "\n".join(_in_markdown(sheet) for sheet in _sheets(rows))


def _sheets(rows: Sequence[Row]) -> list[_Sheet]:
    return [sheet for make in (_scores, _costs, _differences) if (sheet := make(rows)) is not None]


def _metrics(rows: Sequence[Row]) -> list[str]:
    return main_metrics({"": {m: 1.0 for row in rows for s in row["scores"].values() for m in s}})


def _sets(rows: Sequence[Row]) -> list[str]:
    return shown_sets(ordered_sets(name for row in rows for name in row["scores"]))


def _scores(rows: Sequence[Row]) -> _Sheet:
    metrics, sets = _metrics(rows), _sets(rows)
    cells = [
        [
            [METRICS[metric] for metric in metrics],
            *([_statistic_text(row["scores"].get(s, {}).get(m)) for m in metrics] for s in sets),
            [
                scaled_text(row["total_bytes"]["mean"], "B"),
                seconds_text(row["seconds_per_round"]["mean"]),
            ],
        ]
        for row in rows
    ]
    title = "Scores by modalities present, mean ± standard deviation; cost: bytes in all, time of a round"
    return _sheet(title, ["score", *sets, "cost"], rows, cells, _facts)


def _costs(rows: Sequence[Row]) -> _Sheet | None:
    targets = [row["target"] for row in rows if row.get("target")]
    if not targets:
        return None
    columns: dict[str, Callable[[Row], str]] = {
        "reached": lambda row: f"{row['target']['reached']} of {row['target']['of']}",
        "rounds": lambda row: _rounds_text(row["target"]["rounds"]["mean"]),
        "bytes": lambda row: scaled_text(row["target"]["bytes"]["mean"], "B"),
        "simulated time": lambda row: seconds_text(row["target"]["simulated_seconds"]["mean"]),
        "FLOP, whole run": lambda row: scaled_text(row["total_flops"]["mean"]),
        "ε": lambda row: scaled_text(row["epsilon"]["mean"]),
    }
    costs = {"simulated time": "simulated_seconds", "FLOP, whole run": "total_flops", "ε": "epsilon"}
    for column, key in costs.items():
        if not any(is_number(row[key]["mean"]) for row in rows):
            del columns[column]
    cells = [[[write(row)] for write in columns.values()] for row in rows]
    first = targets[0]
    title = f"Until {METRICS[first['metric']]} of {first['set']} reaches {first['value']:.3f}, at an evaluation"
    return _sheet(title, list(columns), rows, cells, lambda row: "")


def _differences(rows: Sequence[Row]) -> _Sheet | None:
    compared = [row for row in rows if row["against"] and row["against"]["scores"]]
    if not compared:
        return None
    metrics, sets = _metrics(rows), _sets(rows)
    if len(sets) > _MOST_SETS:
        sets = [fused_set(sets) or sets[-1]]
    cells = [
        [
            [METRICS[metric] for metric in metrics],
            *([_difference_text(row["against"]["scores"].get(s, {}).get(m)) for m in metrics] for s in sets),
        ]
        for row in compared
    ]
    title = f"Difference from {compared[0]['against']['baseline']}, runs paired by seed, with its 95 % t-interval"
    return _sheet(title, ["score", *sets], compared, cells, _pairs_text)


def _sheet(
    title: str, head: list[str], rows: Sequence[Row], cells: list[list[list[str]]], facts: Callable[[Row], str]
) -> _Sheet:
    left = int(head[:1] == ["score"])
    return _Sheet(title, head, [(row["name"], facts(row), line) for row, line in zip(rows, cells)], left)


def _facts(row: Row) -> str:
    own = {"algorithm", "method"}
    different = {key: value for key, value in row["differences"].items() if key not in own and value is not None}
    names = list(dict.fromkeys(str(row[key]) for key in ("method", "algorithm")))
    facts = [
        *(name for name in names if name != row["name"]),
        f"{row['rounds']} round{'s' if row['rounds'] != '1' else ''}{'' if row['finished'] else ', not finished'}",
        f"seed{'s' if len(row['seeds']) > 1 else ''} {' '.join(map(str, row['seeds']))}",
        told(different),
    ]
    return ", ".join(fact for fact in facts if fact)


def _pairs_text(row: Row) -> str:
    counts = [value["n"] for scores in row["against"]["scores"].values() for value in scores.values()]
    most = max(counts, default=0)
    return f"{most} pair{'s' if most != 1 else ''}"


def _rounds_text(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if is_number(value) else MISSING


def _statistic_text(statistic: dict[str, Any] | None) -> str:
    if not statistic or statistic["mean"] is None:
        return MISSING
    spread = f" ±{_without_zero(statistic['std'])}" if statistic["std"] is not None else ""
    return f"{statistic['mean']:.3f}{spread}"


def _difference_text(difference: dict[str, Any] | None) -> str:
    if not difference or difference["mean"] is None:
        return MISSING
    if difference["low"] is None:
        return _without_zero(difference["mean"], "+")
    low, high = (_without_zero(difference[key], "+") for key in ("low", "high"))
    return f"{_without_zero(difference['mean'], '+')} [{low}, {high}]"


def _without_zero(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{sign}.3f}"


def _narrowed(sheet: _Sheet) -> _Sheet:
    """Return a sheet whose differences have their intervals in a line of their own."""
    if not any(" [" in line for _, _, cells in sheet.rows for cell in cells for line in cell):
        return sheet
    split = lambda cell: [part for line in cell for part in (*line.split(" ", 1), "")[:2]]
    under = lambda label: [part for line in label for part in (line, "")]
    rows = [(name, facts, [under(label), *map(split, cells)]) for name, facts, (label, *cells) in sheet.rows]
    return dataclasses.replace(sheet, rows=rows)


def _for_terminal(sheet: _Sheet) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = max((len(cell) for _, _, cells in sheet.rows for cell in cells), default=1)
    # Rows of several lines stand apart.
    table = Table(
        title=sheet.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        leading=int(lines > 1),
        pad_edge=False,
    )
    table.add_column("run", overflow="fold", min_width=10)
    for position, head in enumerate(sheet.head):
        table.add_column(head, justify="left" if position < sheet.left else "right", no_wrap=True)
    for name, facts, cells in sheet.rows:
        first = Text(name, style="bold")
        if facts:
            first = Text.assemble(first, "\n", (facts, "dim"))
        table.add_row(first, *("\n".join(cell) for cell in cells))
    return table


def _in_markdown(sheet: _Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    marks = ["---"] * (1 + sheet.left) + ["---:"] * (len(sheet.head) - sheet.left)
    body = [
        line([f"**{name}**" + (f"<br>{facts}" if facts else ""), *("<br>".join(cell) for cell in cells)])
        for name, facts, cells in sheet.rows
    ]
    return "\n".join([f"{sheet.title}:", "", line(["run", *sheet.head]), line(marks), *body, ""])
