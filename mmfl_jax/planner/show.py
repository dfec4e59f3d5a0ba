"""Show plans: a table on the terminal, and a figure over client counts and topologies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfl_jax.memory import readable
from mmfl_jax.planner.plan import GROWING

if TYPE_CHECKING:
    from rich.table import Table

Plan = Mapping[str, Any]
# Files, and operations, whose cycles a table tells.
_NAMED = 5
_XLA, _SUM, _RUN = "XLA's estimate", "arithmetic", "timed here"


def table(plan: Plan) -> Table:
    """Return a plan as a table: what, how much, and where the number comes from."""
    from rich.table import Table
    from rich.text import Text

    where = plan["topology"] or "this machine"
    title = f"{plan['study']} on {where}: {plan['chips']} device(s), {plan['clients']:,} clients"
    shown = Table(title=title, title_justify="left", caption="\n".join(plan["notes"]), caption_justify="left")
    for name, justify in (("", "left"), ("a round", "right"), ("from", "left")):
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in _rows(plan):
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _rows(plan: Plan) -> list[tuple[str, str, str]]:
    here = not plan["topology"]
    priced = _RUN if here else _XLA
    seconds = [(f"  {part}", seconds_text(value), priced) for part, value in plan["seconds_by_part"].items()]
    if not here:
        seconds[-1] = (*seconds[-1][:2], _SUM)
    memory = [
        (f"  {kind}", readable(size), "XLA's account") for kind, size in plan["hbm_bytes_per_chip"].items() if size
    ]
    whole = sum(plan["hbm_bytes_per_chip"].values())
    sums = ", ".join(f"{count} {kind}" for kind, count in plan["collectives"].items()) or "none"
    rows = [
        ("seconds", seconds_text(plan["seconds_estimated"]), priced),
        *seconds,
        ("bound by", plan["bound"], priced),
        ("operations", f"{plan['flops_per_round']:.3g}", "XLA's count"),
        ("share of peak", f"{100 * plan['share_of_peak']:.2g} %", _SUM),
        ("memory of a device", f"{readable(whole)} of {readable(plan['hbm_limit'])}", "XLA's account"),
        *memory,
        ("copies of the data", _copied(plan["copied_data"]), "the program"),
        ("collectives", sums, "the program"),
        ("  their bytes", readable(sum(plan["collective_bytes"].values())), "the program"),
        ("  in local steps", str(sum(plan["collectives_in_steps"].values())), "the program"),
        ("clients at once a device", ", ".join(map(str, plan["chunk"])), "the plan"),
        ("idle, waiting for the busiest", f"{plan['idle_chips']:.1%}", _SUM),
        ("padding", f"{plan['padding_waste']:.1%}", "the plan"),
        ("largest federation", f"{plan['largest_federation']:,} clients", f"{_SUM}, by memory"),
        ("largest chunk", ", ".join(f"{n:,}" for n in plan["largest_chunk"]), f"{_SUM}, by memory"),
        ("compiled in", seconds_text(plan["compile_seconds"]), "measured here"),
    ]
    if plan["step_cycles"]:
        rows.append(("cycles, step of a client", ", ".join(f"{c:,.0f}" for c in plan["step_cycles"]), _XLA))
        for shares in (plan["cycles_by_source"], plan["cycles_by_operation"]):
            rows += [(f"  {name}", f"{share:.0%}", _XLA) for name, share in [*shares.items()][:_NAMED]]
    if plan["checked"]:
        took, ratio = plan["checked"]["seconds"], plan["checked"]["estimated_over_measured"]
        rows.append(("checked: it took", f"{seconds_text(took)}, {ratio:.2f} of it estimated", "a whole round here"))
    return rows


def _copied(copies: Mapping[str, int]) -> str:
    return ", ".join(f"{readable(size)} of {name}" for name, size in copies.items()) or "none"


def seconds_text(seconds: float) -> str:
    """Return a duration with a unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def write_figure(plans: Sequence[Plan], path: Path) -> None:
    """Draw seconds and memory against the number of clients, a line for each plan.

    One compilation a topology: with more clients like a study's own, chunks and what devices hold grow in proportion.

    Args:
      plans: of one study.
      path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    most = max(plan["largest_federation"] for plan in plans)
    counts = np.geomspace(min(plan["clients"] for plan in plans), max(most, 10), 100)
    for plan, color in zip(plans, plt.get_cmap("viridis")(np.linspace(0, 0.85, len(plans)))):
        label = f"{plan['topology'] or 'this machine'} ({plan['chips']})"
        fits = counts <= plan["largest_federation"]
        seconds, memory = scaled(plan, counts)
        for axis, values in ((left, seconds), (right, memory / 2**30)):
            axis.loglog(counts[fits], values[fits], color=color, label=label)
            axis.loglog(counts[~fits], values[~fits], color=color, linestyle=":", linewidth=1)
        left.plot(plan["clients"], plan["seconds_estimated"], "o", color=color)
        right.plot(plan["clients"], sum(plan["hbm_bytes_per_chip"].values()) / 2**30, "o", color=color)
    for limit in sorted({plan["hbm_limit"] for plan in plans}):
        right.axhline(limit / 2**30, color="gray", linewidth=1)
        right.annotate(f"a device has {readable(limit)}", (counts[0], limit / 2**30), va="bottom", fontsize=8)
    left.set(xlabel="clients in every round", ylabel="seconds a round (estimate)")
    right.set(xlabel="clients", ylabel="memory of a device, GiB")
    left.legend(title="topology (devices)", fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(f"{plans[0]['study']}: dots are planned, lines follow in proportion, dotted where memory ends")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def scaled(plan: Plan, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds a round and bytes of a device for other numbers of clients, all of whom take part.

    What is computed for clients grows in steps of a full chunk on every home; server and collectives stay.
    """
    parts, memory = plan["seconds_by_part"], plan["hbm_bytes_per_chip"]
    homes = plan["chips"] // plan["devices_per_client"]
    slots = homes * max(plan["chunk"])
    turns = np.ceil(counts / slots) / np.ceil(plan["cohort"] / slots)
    clients = parts["local steps"] + parts["turns"]
    growing = sum(memory[kind] for kind in GROWING)
    seconds = clients * turns + sum(parts.values()) - clients
    return seconds, sum(memory.values()) + growing * (counts / plan["clients"] - 1)
