"""Write the report of a run: figures as PNG files and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfl_jax.files import write_whole, writing
from mmfl_jax.report.presentation import (
    METRICS,
    MISSING,
    count_text,
    main_metrics,
    run_colors,
    scaled_text,
    score_text,
    seconds_text,
    shown_bounds,
    shown_metrics,
)
from mmfl_jax.runs.record import RunRecord, read_run
from mmfl_jax.runs.values import fused_set, is_number

_CAPTIONS = {
    "scores": "Scores of the global model on the test set, for each set of modalities it may see.",
    "losses": "Loss of the clients' training, averaged over each round.",
    "classes": "F1 by class on the test set, the most frequent class first, in brackets how many the set has.",
    "tiles": "Tiles of the test set: each sensor's picture, the truth, and the map that the global model draws from "
    "each set of modalities; the ones with the fewest right pixels first, then typical ones, then the best.",
    "iou": "Intersection over union by class on the test set, in brackets its pixels.",
    "confusion": "What the test samples of a class (row) are taken for (column) by all modalities together, in %.",
    "scenes": "Scenes of the test set: what each is and, where it is not that, what the global model takes it for.",
    "personal": "Accuracy of each client's own model on test samples of the classes it has, in its own shares.",
    "bytes": "What a client sends in a round, by what is trained: of this run's CLIP, and of the published ViT-B/32. "
    "It receives as much. Each number has 4 bytes.",
    "cost": "Left: what the traffic of all clients bought. Right: time of each round.",
}
_BASELINE = {
    "scores": " The dashed line is the best prediction that looks at no image.",
    "classes": " The dark mark is the best prediction that looks at no image.",
}

_BOUNDS = {"centralized": "all samples pooled", "local": "each client alone"}


def write_report(run_dir: Path) -> Path:
    """Write ``figures/*.png`` and ``report.html`` into a run directory.

    The page works offline and on a run that is still going.

    Args:
      run_dir: the run directory.

    Returns:
      The page.

    Raises:
      UserError: if it is not a run directory, or a file in it is damaged.
    """
    from mmfl_jax.report.figures import draw_figures
    from mmfl_jax.report.scenes import draw_scene_figures
    from mmfl_jax.report.tiles import draw_tile_figures

    run = read_run(run_dir)
    with writing(run.path / "figures", f"the run is as it was: mmfl-jax report {run_dir} tries again"):
        folder = run.path / "figures"
        figures = draw_figures(run, folder) | draw_scene_figures(run, folder) | draw_tile_figures(run, folder)
    page = run.path / "report.html"
    # Replaced in one step: somebody may be reading the page of a run that is still going.
    write_whole(page, render_page(run, figures))
    return page


def render_page(run: RunRecord, figures: Mapping[str, Path]) -> str:
    """Return the page as HTML.

    Args:
      run: the run.
      figures: PNG files by name, as ``draw_figures`` returns them.
    """
    captions = {name: text + (_BASELINE.get(name, "") if run.baseline else "") for name, text in _CAPTIONS.items()}
    captions["clients"] = _clients_caption(run)
    captions["scenes"] += _new_classes(run)

    def figure(name: str, otherwise: str = "") -> str:
        return _figure(figures[name], captions[name]) if name in figures else f"<p>{otherwise}</p>" if otherwise else ""

    sections = {
        "Results": _results(run),
        "Scores by round": figure("scores", "No evaluation yet."),
        "Training loss": figure("losses", "No round has ended yet."),
        "Maps": figure("tiles"),
        "Classes": figure("classes", "Scores by class appear when the run has ended.")
        + figure("iou")
        + figure("confusion")
        + _class_table(run),
        "Scenes": figure("scenes"),
        "Clients": figure("clients", "This federation has no clients.") + figure("personal") + _personal_table(run),
        "Bytes and time": _cost_table(run) + figure("cost") + figure("bytes"),
        "Configuration": _configuration(run),
    }
    shown = {title: content for title, content in sections.items() if content or title not in ("Scenes", "Maps")}
    body = "".join(f"<section><h2>{_text(title)}</h2>{content}</section>" for title, content in shown.items())
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(run.name)}</title><style>{style}</style></head><body><main>"
        f"<header><h1>{_text(run.name)} {_badge(run)}</h1><p>{_text(what_was_run(run))}</p>{_tiles(run)}</header>"
        f"{body}</main></body></html>\n"
    )


def what_was_run(run: RunRecord) -> str:
    """Say in one line what was run."""
    config, found = run.config, (run.summary.get("archive") or {}).get("name")
    if found and found != config.get("archive", found).partition(":")[0]:  # given in Python: the study's is not used
        config = {**config, "archive": found, "partition": "", "modality_assignment": ""}
    clients = count_text(run.federation.get("clients_total") or len(run.federation["clients"]))
    parts = [
        " under ".join(config[key] for key in ("method", "algorithm") if config.get(key)) or "Training",
        f"on {config.get('archive') or 'an archive'}",
        f"modalities {', '.join(run.modalities)}" if run.modalities else "",
        f"{clients} clients" + (f" (partition {config['partition']})" if config.get("partition") else ""),
        f"modality assignment {config['modality_assignment']}" if config.get("modality_assignment") else "",
        f"{count_text(run.federation.get('train_samples'))} training and "
        f"{count_text(run.federation.get('test_samples'))} test samples",
        f"{run.last_round} of {config['rounds']} rounds" if config.get("rounds") else f"{run.last_round} rounds",
        f"seed {config['seed']}" if "seed" in config else "",
    ]
    return " · ".join(part for part in parts if part)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table of cells that are HTML already."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{header}</tr></thead>" if head else ""
    return f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def _swatch(run: RunRecord, name: str) -> str:
    return f'<i style="background:{run_colors(run).get(name, "#888")}"></i>{_text(name)}'


def _badge(run: RunRecord) -> str:
    if not run.finished:
        return '<span class="badge going">not finished</span>'
    return '<span class="badge">finished</span>'


def _tiles(run: RunRecord) -> str:
    metrics, fused = main_metrics(run.evaluation), fused_set(run.evaluation)
    tiles = [(METRICS[m], score_text(run.evaluation[fused].get(m)), fused) for m in metrics if fused]
    tiles += [
        ("Rounds", count_text(run.last_round), ""),
        ("Sent in all", scaled_text(run.total_bytes, "B"), "up and down"),
        ("Time", seconds_text(run.seconds_per_round), "a round"),
    ]
    if run.skipped_clients:
        tiles.append(("Left out", count_text(run.skipped_clients), "updates of clients, not finite"))
    return (
        '<div class="tiles">'
        + "".join(
            f"<div><small>{_text(label)}</small><b>{_text(value)}</b><small>{_text(note)}</small></div>"
            for label, value, note in tiles
        )
        + "</div>"
    )


def _results(run: RunRecord) -> str:
    metrics = shown_metrics(run.evaluation)
    if not metrics:
        return "<p>No evaluation yet.</p>"
    best = {m: max((s[m] for s in run.evaluation.values() if is_number(s.get(m))), default=None) for m in metrics}

    def cell(metric: str, value: Any) -> str:
        text = score_text(value)
        return f"<strong>{text}</strong>" if is_number(value) and value == best[metric] else text

    rows = [
        [_swatch(run, name)] + [cell(metric, run.evaluation[name].get(metric)) for metric in metrics]
        for name in run.evaluated_sets
        if name in run.evaluation
    ]
    for bound, name, scores in shown_bounds(run.summary):
        values = [score_text(scores.get(m)) for m in metrics]
        rows.append([f"<em>bound: {_text(_BOUNDS.get(bound, bound))}, {_text(name)}</em>", *values])
    if run.baseline:
        rule = _text(run.baseline.get("rule") or "fixed prediction")
        rows.append([f"<em>baseline without images: {rule}</em>"] + [score_text(run.baseline.get(m)) for m in metrics])
    latest = "" if run.finished else f"<p>After round {max(run.evaluations)}; the run has not finished.</p>"
    return _table(["Modalities", *(METRICS[metric] for metric in metrics)], rows, "numbers") + latest


def _figure(file: Path, caption: str) -> str:
    image = base64.b64encode(file.read_bytes()).decode("ascii")
    return (
        f'<figure><div class="wide"><img alt="{_text(caption)}" src="data:image/png;base64,{image}"></div>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _class_table(run: RunRecord) -> str:
    names = run.federation["class_names"]
    lists = {name: scores.get("f1_per_class") or [] for name, scores in run.evaluation.items()}
    sets = [name for name in run.evaluated_sets if len(lists.get(name, [])) == len(names)]
    if not sets:
        return ""
    support = run.evaluation[sets[0]].get("support") or [None] * len(names)
    row = lambda c: [_text(names[c]), count_text(support[c]), *(score_text(lists[name][c]) for name in sets)]
    rows = [row(c) for c in range(len(names))]
    head = ["Class", "In the test set", *(_swatch(run, name) for name in sets)]
    return f"<details><summary>F1 by class in numbers</summary>{_table(head, rows, 'numbers')}</details>"


def _clients_caption(run: RunRecord) -> str:
    clients = run.federation["clients"]
    if not clients:
        return ""
    total = run.federation.get("clients_total") or len(clients)
    which = f"The {len(clients):,} largest of {total:,} clients" if total > len(clients) else f"{total:,} clients"
    sizes = [client["samples"] for client in clients]
    held = [run.held_set(client) for client in clients]
    holders = ", ".join(f"{held.count(name):,} hold {name}" for name in run_colors(run) if name in held)
    return (
        f"{which}, {count_text(min(sizes))} to {count_text(max(sizes))} samples each (median "
        f"{count_text(statistics.median(sizes))}): {holders}."
    )


def _personal_table(run: RunRecord) -> str:
    personal = run.summary.get("personal") or {}
    labels = {"mean": "Mean", "std": "Deviation", "p10": "10th percentile", "worst": "Worst"}
    rows = [(label, score_text(personal.get(name))) for name, label in labels.items() if is_number(personal.get(name))]
    return f"<h3>Accuracy of the clients' own models</h3>{_table([], rows, 'numbers facts')}" if rows else ""


def _new_classes(run: RunRecord) -> str:
    trained = (run.summary.get("clip") or {}).get("trained_classes") or []
    new = [name for name in run.federation["class_names"] if name not in trained]
    return f" New to this CLIP, which was trained here on the others: {', '.join(new)}." if trained and new else ""


def _cost_table(run: RunRecord) -> str:
    cost, communication = run.summary.get("cost") or {}, run.summary.get("communication") or {}
    share = lambda key: f"{cost[key]:.1%}" if is_number(cost.get(key)) else MISSING
    privacy = run.summary.get("privacy") or {}
    promised = " at ".join(f"{key} {privacy[key]:.3g}" for key in ("epsilon", "delta") if is_number(privacy.get(key)))
    rows = [
        ("Up, a client and round", scaled_text(communication.get("bytes_up_per_client"), "B")),
        ("Down, a client and round", scaled_text(communication.get("bytes_down_per_client"), "B")),
        ("All clients and rounds", scaled_text(run.total_bytes, "B")),
        ("A round", seconds_text(run.seconds_per_round)),
        ("Compilation", seconds_text(cost.get("compile_seconds"))),
        ("Arithmetic of a round", scaled_text(cost.get("flops_per_round"), "FLOP")),
        ("Padding waste", share("padding_waste")),
        ("Time that devices wait for data", share("device_waiting")),
        ("Peak memory", scaled_text(cost.get("peak_memory_bytes"), "B")),
        ("Client-level privacy", promised or MISSING),
        ("Client updates left out as not finite", count_text(run.skipped_clients)),
    ]
    known = [(_text(label), _text(value)) for label, value in rows if value != MISSING]
    return _table([], known, "numbers facts") if known else "<p>Nothing measured yet.</p>"


def _configuration(run: RunRecord) -> str:
    blocks = {"Study": run.config, "Archive": run.summary.get("archive")}
    folded = "".join(
        f"<details><summary>{title}: every field</summary>{_fields(values)}</details>"
        for title, values in blocks.items()
        if values
    )
    digest = run.summary.get("state_sha256")
    facts = {**(run.summary.get("versions") or {}), **({"sha256 of the final parameters": digest} if digest else {})}
    return folded + (f"<h3>Versions</h3>{_fields(facts)}" if facts else "")


def _fields(values: Mapping[str, Any]) -> str:
    return _table(
        [],
        [
            (_text(key), _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)))
            for key, value in values.items()
        ],
        "fields",
    )
