"""Time the forms of a convolution, its forward and both gradients, as local training meets them.

    python benchmarks/ops.py [--quick] [--clients 1,8] [--dtype float32] [--output benchmarks/results/ops_cpu.jsonl]

Every operation runs under vmap over clients inside a ``fori_loop`` with a traced bound, for inside of loops XLA
takes other paths than at the top level. The forms of one operation take turns, and the fastest turn counts: other
work on the machine only ever adds time. The matmul peak is that of a square matmul in the same run. The last
column is the form that ``mmfl_jax.ops`` chooses, with its time over that of the fastest form; the table of
choices in ``mmfl_jax/ops/conv_choice.py`` is edited by hand from these rows. A row's ``error`` is the root mean
square difference from the plain form in float64, over the root mean square of that, for the first client.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from machine import processor

from mmfl_jax.ops.conv_choice import FORMS, choose
from mmfl_jax.ops.conv_forms import KERNELS
from mmfl_jax.ops.conv_spec import ConvSpec
from mmfl_jax.ops.convolution import _operation

# name: batch, space, channels, features, kernel, stride
SHAPES = {
    "resnet s1 stem": (16, (60, 60), 2, 64, 3, 1),
    "resnet s2 stem": (16, (60, 60), 10, 64, 3, 1),
    "resnet 7x7 stem": (16, (60, 60), 10, 64, 7, 2),
    "patch stem": (16, (32, 32), 10, 16, 3, 1),
    "stage 16": (16, (32, 32), 16, 16, 3, 1),
    "stage 32": (16, (32, 32), 32, 32, 3, 1),
    "down 16-32": (16, (32, 32), 16, 32, 3, 2),
    "short 16-32": (16, (32, 32), 16, 32, 1, 2),
    "resnet stage 1": (16, (60, 60), 64, 64, 3, 1),
    "resnet down 2": (16, (60, 60), 64, 128, 3, 2),
    "resnet short 2": (16, (60, 60), 64, 128, 1, 2),
    "resnet stage 2": (16, (30, 30), 128, 128, 3, 1),
    "resnet down 3": (16, (30, 30), 128, 256, 3, 2),
    "resnet stage 3": (16, (15, 15), 256, 256, 3, 1),
    "resnet down 4": (16, (15, 15), 256, 512, 3, 2),
    "resnet stage 4": (16, (8, 8), 512, 512, 3, 1),
    "stage 64": (16, (15, 15), 64, 64, 3, 1),
    "down 64-128": (16, (15, 15), 64, 128, 3, 2),
    "short 64-128": (16, (15, 15), 64, 128, 1, 2),
    "point 16": (16, (32, 32), 16, 16, 1, 1),
    "point 64": (16, (15, 15), 64, 64, 1, 1),
    "stage 64 at 8 px": (16, (8, 8), 64, 64, 3, 1),
    "stage 128": (16, (8, 8), 128, 128, 3, 1),
    "fedjax 1": (10, (32, 32), 3, 32, 5, 1),
    "fedjax 2": (10, (16, 16), 32, 64, 5, 1),
    "series 1": (32, (17,), 9, 32, 3, 1),
    "series 2": (32, (17,), 32, 64, 3, 1),
}
QUICK = ("stage 32", "down 16-32", "fedjax 1", "series 1")
KINDS = ("forward", "input", "weight")


def spec_of(space: tuple[int, ...], kernel: int, stride: int, form: str | None = None) -> ConvSpec:
    """Return a SAME convolution."""
    rank = len(space)
    padding = lax.padtype_to_pads(space, (kernel,) * rank, (stride,) * rank, "SAME")
    ones = (1,) * rank
    return ConvSpec(
        space, (kernel,) * rank, (stride,) * rank, tuple((int(a), int(b)) for a, b in padding), ones, ones, form=form
    )


def looped(operation: Callable[[Array, Array], Array]) -> Callable:
    """Repeat an operation n times in one jitted loop, each time on operands that depend on the last result."""

    def run(n, a, b):
        def body(_, carry):
            a, b, y = carry
            change = (y.ravel()[0] * 1e-20).astype(a.dtype)
            a, b = (t.at[(0,) * t.ndim].add(change) for t in (a, b))
            return a, b, operation(a, b)

        y = jax.eval_shape(operation, a, b)
        return lax.fori_loop(0, n, body, (a, b, jnp.zeros(y.shape, y.dtype)))

    return jax.jit(run)


def best_times(operations: dict[str, Callable], a: Array, b: Array, seconds: float, turns: int) -> dict[str, float]:
    """Return each operation's seconds in its fastest turn; one slower than ``seconds`` has one turn only."""
    runs, best = {name: looped(f) for name, f in operations.items()}, {}

    def once(name: str, trips: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(runs[name](trips, a, b))
        return (time.perf_counter() - start) / trips

    for name, run in runs.items():
        jax.block_until_ready(run(0, a, b))
        best[name] = once(name, 1)
    trips = {name: max(1, min(100, int(seconds / t))) for name, t in best.items()}
    for _ in range(turns):
        for name in runs:
            if best[name] < seconds:
                best[name] = min(best[name], once(name, trips[name]))
    return best


def operands(shape: tuple, kind: str, clients: int, dtype: str) -> tuple[Array, Array, float]:
    """Return the two operands of one kind for all clients, and the operation's FLOPs."""
    *sides, flops = operand_shapes(shape, kind)
    a, b = (jax.random.normal(jax.random.key(i), (clients, *s), dtype) for i, s in enumerate(sides))
    return a, b, clients * flops


def operand_shapes(shape: tuple, kind: str) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    """Return the shapes of one client's two operands, and the operation's FLOPs."""
    batch, space, channels, features, kernel, stride = shape
    spec = spec_of(space, kernel, stride)
    x = (batch, *space, channels)
    w = (*spec.kernel, channels, features)
    dy = (batch, *spec.out_space(), features)
    first, second = {"forward": (x, w), "input": (dy, w), "weight": (x, dy)}[kind]
    return first, second, 2.0 * math.prod(dy) * channels * math.prod(spec.kernel)


def measure(name: str, kind: str, clients: int, dtype: str, forms: list[str], budget: tuple[float, int]) -> list[dict]:
    """Return one row a form for one shape, kind and number of clients."""
    shape = SHAPES[name]
    batch, space, channels, features, kernel, stride = shape
    a, b, flops = operands(shape, kind, clients, dtype)
    operations = {f: jax.vmap(_operation(spec_of(space, kernel, stride, f), kind)) for f in forms}
    # Forms that come to the same program here are timed once.
    programs = {form: str(jax.make_jaxpr(operation)(a, b)) for form, operation in operations.items()}
    first = {program: form for form, program in reversed(programs.items())}
    timed = best_times({form: operations[form] for form in first.values()}, a, b, *budget)
    times = {form: timed[first[program]] for form, program in programs.items()}
    errors = {form: error(spec_of(space, kernel, stride, form), kind, a[0], b[0]) for form in first.values()}
    chosen = choose(spec_of(space, kernel, stride), kind, jnp.dtype(dtype), batch, channels, features, clients)
    fastest = min(times.values())
    return [
        {
            "shape": name,
            "sizes": [batch, *space, channels, features, kernel, stride],
            "kind": kind,
            "clients": clients,
            "dtype": dtype,
            "form": form,
            "ms": round(t * 1e3, 4),
            "gflops": round(flops / t / 1e9, 2),
            "over_fastest": round(t / fastest, 3),
            "error": float(f"{errors[first[programs[form]]]:.2g}"),
            "chosen": form == chosen,
        }
        for form, t in times.items()
    ]


def error(spec: ConvSpec, kind: str, a: Array, b: Array) -> float:
    """Return the relative root mean square difference of a form from the plain form in float64."""
    with jax.enable_x64(True):
        exact = jax.jit(KERNELS["plain"][kind], static_argnums=0)(spec, *(t.astype(jnp.float64) for t in (a, b)))
    ours = np.asarray(jax.jit(_operation(spec, kind))(a, b), np.float64)
    return float(np.sqrt(np.mean((ours - np.asarray(exact)) ** 2) / np.mean(np.asarray(exact) ** 2)))


def matmul_peak(dtype: str, budget: tuple[float, int]) -> float:
    """Return the GFLOP/s of a square matmul."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    return 2.0 * n**3 / best_times({"matmul": jnp.matmul}, a, a, *budget)["matmul"] / 1e9


def host() -> dict:
    """Return what ran: device, versions, date."""
    return {
        "platform": jax.default_backend(),
        "device": processor() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def print_table(rows: list[dict], forms: list[str]) -> None:
    """Print milliseconds a form, and the chosen form's time over the fastest."""
    print(f"{'shape':16s} {'kind':8s} clients " + " ".join(f"{f:>13s}" for f in forms) + "   chosen")
    keys = dict.fromkeys((r["shape"], r["kind"], r["clients"]) for r in rows)
    for key in keys:
        same = {r["form"]: r for r in rows if (r["shape"], r["kind"], r["clients"]) == key}
        cells = " ".join(f"{same[f]['ms']:13.3f}" if f in same else " " * 13 for f in forms)
        chosen = next((f"{f} x{r['over_fastest']:.2f}" for f, r in same.items() if r["chosen"]), "")
        print(f"{key[0]:16s} {key[1]:8s} {key[2]:7d} {cells}   {chosen}")


def main() -> None:
    """Measure, print JSON rows and a table, and append the rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few shapes and turns")
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--shapes", default=None, help="comma-separated names")
    parser.add_argument("--output", type=pathlib.Path, default=None)
    args = parser.parse_args()
    budget = (0.02, 3) if args.quick else (0.03, 5)
    forms = args.forms.split(",")
    names = args.shapes.split(",") if args.shapes else QUICK if args.quick else list(SHAPES)
    common, peak, rows = host(), matmul_peak(args.dtype, budget), []
    for clients in map(int, args.clients.split(",")):
        for name in names:
            for kind in KINDS:
                for row in measure(name, kind, clients, args.dtype, forms, budget):
                    row |= {"peak_gflops": round(peak, 1), "share_of_peak": round(row["gflops"] / peak, 4), **common}
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    print_table(rows, forms)
    if args.output:
        with args.output.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
