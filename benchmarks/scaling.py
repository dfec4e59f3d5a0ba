"""Measure how a round grows with its clients at fixed work a client, and what chunks cost on real country sizes.

    python benchmarks/scaling.py [--quick] [--models mlp,resnet8] [--clients 8,32,128,512,2048,8192]
        [--chunks 1,2,4,8,0] [--devices N] [--turns T] [--output FILE] [--figure scaling.png]

Answers: does the time of a client-step stay flat, do the temporaries of the compiled round stay flat at a fixed chunk,
what does it take to compile, does anything compile again after the first round, and which share of the device time do
BigEarthNet v2's countries waste, when chunks wait for their longest client and devices for the last one.

Clients hold one modality each, by turns, and 16 random samples, on which they train ``--steps`` steps: what is timed is
the engine's own round through ``Simulation.run_round``. The numbers of clients take turns with one chunk size, so that
other work on the machine falls on all of them; seconds are medians over turns, and the fastest turn stands beside.
Chunk 0 is the engine's own choice. Arguments (samples and state, on every device) grow with clients by nature, so
they are told apart from temporaries.
"""

from __future__ import annotations

import math
import pathlib
import statistics
import time

import jax
import numpy as np
from common import Shape, emit, host, parser, random_federation, use_devices

from mmfl_jax import Simulation, Study, costs
from mmfl_jax.archives.twin.statistics import COUNTRY_SEASONS, COUNTRY_SIZES
from mmfl_jax.engine.chunks import IMAGES, widest
from mmfl_jax.engine.plan import Planner, local_steps
from mmfl_jax.federation.assignment import assign_modalities
from mmfl_jax.federation.partition import Part, Parts
from mmfl_jax.federation.placement import Placement

# name: shapes of a sample, and the study's options. Local steps make up for a small model, so that a round of 32
# clients takes long beside the round's own fixed milliseconds.
MODELS: dict[str, tuple[dict[str, Shape], dict]] = {
    "mlp": ({"s1": (17, 2), "s2": (17, 9)}, {"encoder": "mlp", "width": 64, "local_steps": 16, "batch_size": 16}),
    "resnet8": ({"s1": (8, 8, 2), "s2": (8, 8, 10)}, {"encoder": "resnet8", "width": 8, "local_steps": 2}),
}
SAMPLES = 16
TURN_SECONDS = 0.5
MEDIAN, FASTEST = "microseconds_per_client_step", "fastest_microseconds_per_client_step"
# On real sizes: one epoch in batches of 32.
BATCH = 32


class Compilations:
    """Count what XLA compiles."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, _seconds: float, **_: object) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def rounds_of(simulation: Simulation, seconds: float) -> float:
    """Return the seconds of a round, from as many rounds in a row as ``seconds`` take, at least one."""
    begin, done = time.perf_counter(), 0
    while not done or time.perf_counter() - begin < seconds:
        simulation.run_round()  # waits for its metrics, which the device has last
        done += 1
    return (time.perf_counter() - begin) / done


def measure(model: str, chunk: int, clients: list[int], turns: int, heard: Compilations) -> list[dict]:
    """Return a row for each number of clients."""
    shapes, options = MODELS[model]
    study = Study.of(**{"method": "mf", "batch_size": 8, "chunk_size": chunk, **options})
    simulations, rows = [], []
    for number in clients:
        simulations.append(Simulation(study, random_federation(number, SAMPLES, shapes)))
        simulations[-1].run_round()
    before = heard.count
    times = [[rounds_of(s, TURN_SECONDS) for s in simulations] for _ in range(turns)]
    again = heard.count - before
    for number, simulation, of_turns in zip(clients, simulations, zip(*times)):
        memory = costs.memory(simulation.execution.compiled) or {}
        median, fastest = statistics.median(of_turns), min(of_turns)
        steps = number * study.training.local_steps
        rows.append(
            {
                "benchmark": "scaling",
                "model": model,
                "clients": number,
                "chunk": chunk or "auto",
                "chunk_sizes": simulation.execution.planner.chunk,
                "local_steps": study.training.local_steps,
                "batch_size": study.training.batch_size,
                "seconds_per_round": round(median, 5),
                MEDIAN: round(median / steps * 1e6, 3),
                FASTEST: round(fastest / steps * 1e6, 3),
                "temporary_bytes": memory.get("temporaries"),
                "argument_bytes": memory.get("held"),
                "compile_seconds": round(simulation.compile_seconds or math.nan, 2),
                "compilations_after_first_round": again,
                "turns": turns,
            }
        )
    return rows


def layouts() -> dict[str, list[int]]:
    """Return the real sizes of BigEarthNet v2's owners: a country each, and a country and season each."""
    seasons = [n for parts in COUNTRY_SEASONS.values() for n in parts if n]
    return {"country": COUNTRY_SIZES.tolist(), "country+season": seasons}


def padding_row(layout: str, sizes: list[int], chunk: int, devices: int) -> dict:
    """Return what one lay-out of the real sizes wastes, each client with one modality as the engine deals them.

    ``padding_waste`` is the engine's: client-steps of seats whose client has ended and after whom nobody waits.
    ``device_waste`` adds the time that devices wait for the last one. Chunk 0 is the engine's choice on an accelerator:
    as many as are nearly always full.
    """
    parts = Parts.of([Part(str(i), np.arange(size)) for i, size in enumerate(sizes)])
    _, sets, held = assign_modalities(parts, ("s1", "s2"), "single", 0)
    steps = [local_steps(parts.sizes[held == i], 1, BATCH) for i in range(len(sets))]
    chunks = [min(chunk or IMAGES, len(s)) for s in steps]
    placement = Placement.of(steps, steps, devices)
    if not chunk:
        chunks = [widest(-(-most // devices), g, len(steps[g]), steps, placement) for g, most in enumerate(chunks)]
    _, work = Planner(steps, chunks, placement, [len(s) for s in steps]).lay([np.arange(len(s)) for s in steps])
    return {
        "benchmark": "padding",
        "layout": layout,
        "clients": len(sizes),
        "chunk": chunk,
        "seats": chunks,
        "devices": devices,
        "client_steps": work.steps,
        "padding_waste": round(1 - work.steps / work.computed, 4),
        "device_waste": round(1 - work.steps / (devices * work.longest), 4),
    }


def print_tables(rows: list[dict]) -> None:
    """Print one table of times and memory, one of waste."""
    print(
        f"\n{'model':8s} {'chunk':>6s} {'clients':>7s} {'s/round':>9s} {'us/step':>9s} {'to 32':>6s} {'fastest':>9s} "
        f"{'to 32':>6s} {'temp MB':>8s} {'held MB':>8s} {'compile s':>9s} again"
    )
    scaled = [r for r in rows if r["benchmark"] == "scaling"]
    for r in scaled:
        base = next((b for b in scaled if all(b[k] == r[k] for k in ("model", "chunk")) and b["clients"] == 32), None)
        ratios = [f"{r[key] / base[key]:6.2f}" if base else "" for key in (MEDIAN, FASTEST)]
        memory = [r[name] / 1e6 if r[name] is not None else math.nan for name in ("temporary_bytes", "argument_bytes")]
        print(
            f"{r['model']:8s} {r['chunk']!s:>6s} {r['clients']:7d} {r['seconds_per_round']:9.4f} {r[MEDIAN]:9.2f} "
            f"{ratios[0]:>6s} {r[FASTEST]:9.2f} {ratios[1]:>6s} {memory[0]:8.2f} {memory[1]:8.2f} "
            f"{r['compile_seconds']:9.2f} {r['compilations_after_first_round']:5d}"
        )
    print(f"\n{'layout':15s} {'clients':>7s} {'devices':>7s} {'chunk':>5s} {'padding':>8s} {'with waiting':>13s}")
    for r in (r for r in rows if r["benchmark"] == "padding"):
        print(
            f"{r['layout']:15s} {r['clients']:7d} {r['devices']:7d} {r['chunk']:5d} {r['padding_waste']:8.1%} "
            f"{r['device_waste']:13.1%}"
        )


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Write the figure: time of a client-step and temporaries against clients, waste against chunk."""
    from matplotlib.figure import Figure  # hosts with a GPU need not have it

    from mmfl_jax.report.figures import save, styled

    def panels() -> Figure:
        figure = Figure(figsize=(12.6, 4.4), layout="constrained")
        times, memory, waste = figure.subplots(1, 3)
        _draw_scaling(rows, times, memory)
        _draw_waste([r for r in rows if r["benchmark"] == "padding"], waste)
        for panel in (times, memory, waste):
            panel.grid(axis="y")
            panel.set_axisbelow(True)
        # The first two panels share their lines.
        small = {"fontsize": 8, "handlelength": 2.6}
        figure.legend(*times.get_legend_handles_labels(), loc="outside lower left", ncols=5, **small)
        waste.legend(title="BigEarthNet v2, an epoch, batches of 32", title_fontsize=8, loc="upper left", **small)
        return figure

    save(styled(panels), path)


_COLORS = {1: "#0072B2", 2: "#E69F00", 4: "#CC79A7", 8: "#D55E00", "auto": "#009E73"}
_LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def _draw_scaling(rows: list[dict], times, memory) -> None:
    from matplotlib.ticker import LogLocator

    times.set_title("Microseconds a client-step")
    times.set_ylabel("fastest turn (median: cross)")
    memory.set_title("Temporaries of the round, MB")
    scaled = [r for r in rows if r["benchmark"] == "scaling"]
    models = list(dict.fromkeys(r["model"] for r in scaled))
    for model, chunk in dict.fromkeys((r["model"], r["chunk"]) for r in scaled):
        line = [r for r in scaled if (r["model"], r["chunk"]) == (model, chunk)]
        clients = [r["clients"] for r in line]
        color = _COLORS.get(chunk, "#666666")
        style = {"color": color, "linestyle": _LINES[models.index(model) % len(_LINES)]}
        style |= {"marker": "o", "markersize": 3.5, "label": f"{model}, chunk {chunk}"}
        times.plot(clients, [r[FASTEST] for r in line], **style)
        times.plot(clients, [r[MEDIAN] for r in line], color=color, linestyle="", marker="x", markersize=4.5)
        memory.plot(clients, [(r["temporary_bytes"] or math.nan) / 1e6 for r in line], **style)
    for panel in (times, memory):
        panel.set(xscale="log", yscale="log", xlabel="clients a round")
        low, high = panel.get_ylim()
        panel.set_ylim(low / 1.5, high * 1.5)  # noise shall not fill the panel
        ticks = sorted({r["clients"] for r in scaled})
        panel.set_xticks(ticks, [f"{n:,}" for n in ticks])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.minorticks_off()


def _draw_waste(rows: list[dict], panel) -> None:
    for i, (layout, devices) in enumerate(dict.fromkeys((r["layout"], r["devices"]) for r in rows)):
        line = [r for r in rows if (r["layout"], r["devices"]) == (layout, devices)]
        color = ("#0072B2", "#0072B2", "#D55E00", "#D55E00")[i % 4]
        name, key = (
            ("padding", "padding_waste") if devices == 1 else (f"with waiting, {devices} devices", "device_waste")
        )
        panel.plot(
            range(len(line)),
            [100 * r[key] for r in line],
            color=color,
            linestyle=_LINES[devices > 1],
            marker="o",
            markersize=3.5,
            label=f"{layout}: {name}",
        )
    panel.axhline(10, color="#7a828c", linestyle=_LINES[2], linewidth=1)
    chunks = list(dict.fromkeys(r["chunk"] for r in rows))
    panel.set_xticks(range(len(chunks)), [chunk or "chosen" for chunk in chunks])
    panel.set(xlabel="clients a chunk", ylim=(0, 150), yticks=range(0, 101, 20))
    panel.set_title("Wasted share of device time, %")


def main() -> None:
    """Measure, print JSON rows and tables, append rows to a file, draw the figure."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=0, help="timed turns of each row; 0: 3, or 2 with --quick")
    options.add_argument("--models", default=",".join(MODELS))
    options.add_argument("--clients", default=None)
    options.add_argument("--chunks", default=None, help="0 is the engine's own choice")
    options.add_argument("--steps", type=int, default=0, help="local steps; 0 for each model's own")
    options.add_argument("--figure", type=pathlib.Path, default=None)
    args = options.parse_args()
    numbers = lambda text: [int(n) for n in text.split(",")]
    clients = numbers(args.clients or ("8,32,128" if args.quick else "8,32,128,512,2048,8192"))
    chunks = numbers(args.chunks or ("1,0" if args.quick else "1,2,4,8,0"))
    if unknown := set(args.models.split(",")) - set(MODELS):
        options.error(f"--models {', '.join(sorted(unknown))}: there are {', '.join(MODELS)}")
    if min(clients) < 1 or max(chunks) > min(clients):
        options.error(f"--clients {min(clients)}: each number must be at least the largest chunk, {max(chunks)}")
    use_devices(args.devices)
    heard, account, rows = Compilations(), host(), []

    def add(row: dict) -> None:
        rows.append(row | account | row)  # a lay-out has devices of its own
        emit(rows[-1], args.output)

    for layout, sizes in layouts().items():
        for devices in (1, 8):
            for chunk in (1, 2, 4, 8, 16, 0):
                add(padding_row(layout, sizes, chunk, devices))
    for model in args.models.split(","):
        if args.steps:
            MODELS[model][1]["local_steps"] = args.steps
        for chunk in chunks:
            for row in measure(model, chunk, clients, args.turns or (2 if args.quick else 3), heard):
                add(row)
    print_tables(rows)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
