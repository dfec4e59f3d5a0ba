"""Commands on studies: run and sweep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tyro.conf import OmitArgPrefixes, UseAppendAction

from mmfl_jax.archives.base import Archive
from mmfl_jax.cli.arguments import parse
from mmfl_jax.cli.streams import say
from mmfl_jax.cpu_devices import give_threads, make_devices
from mmfl_jax.errors import UserError
from mmfl_jax.options import Count, Positive, flag, options
from mmfl_jax.study import Study, load_study


@options
class Run:
    """Run a study, and write its run directory."""

    study: OmitArgPrefixes[Study]
    run_dir: Path | None = None
    """Run directory; runs/NAME by default."""
    resume: bool = False
    """Continue the run in --run-dir from its last checkpoint."""
    quiet: bool = False
    """Show no progress and no table."""
    bounds: bool = False
    """Run the two bounds too: all samples pooled (centralized), and each client alone (local)."""
    tensorboard: bool = False
    """Write TensorBoard files into the run directory."""
    coordinator: str = ""
    """HOST:PORT of process 0, where several hosts run one study; not needed where JAX knows the cluster."""
    processes: Count = 0
    """How many processes run the study, with --coordinator."""
    process_id: int = -1
    """Which of them this is, from 0, with --coordinator."""
    join_timeout: Positive = 300
    """Seconds to wait for the other processes at the start."""
    compilation_cache: Path | None = None
    """Keep compiled rounds in this directory, for the next run; on a CPU they then do without oneDNN's convolutions."""


def run(reference: str, arguments: list[str]) -> None:
    """Run the study ``reference`` with the options in ``arguments``."""
    study = load_study(reference)
    chosen = parse(Run, f"mmfl-jax run {reference}", arguments, Run(study=study))
    before, study = study.flat(), chosen.study
    given = {name for name, value in study.flat().items() if value != before[name]}
    import jax

    from mmfl_jax import cluster, commands
    from mmfl_jax.files import writing
    from mmfl_jax.rounds import Rounds
    from mmfl_jax.runs import directory
    from mmfl_jax.study.build import check
    from mmfl_jax.study.unused import unused

    check(study)
    cluster.join(chosen.coordinator, chosen.processes, chosen.process_id, chosen.join_timeout)
    make_devices(-(-study.execution.devices // cluster.count()))
    if cluster.several():
        give_threads()
    _check_several(chosen)
    if chosen.resume and chosen.run_dir is None:
        raise UserError("--resume needs --run-dir, the directory of the run to continue")
    run_dir = chosen.run_dir or directory.fresh_run_dir(study)
    if cluster.leads():
        directory.check(run_dir, study, chosen.resume)  # refuse before the archive is read
    if chosen.compilation_cache is not None:
        with writing(chosen.compilation_cache):
            chosen.compilation_cache.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(chosen.compilation_cache))
    simulation = Rounds(study)
    archive = simulation.federation.archive
    if cluster.leads():
        for line in (*unused(study, archive, given), *_limits(study, archive, given)):
            say(line)
    quiet = chosen.quiet or not cluster.leads()
    homes, span = simulation.mesh.devices.shape
    if span > 1 and not quiet:
        print(f"{homes * span} devices, {span} to a client: {homes} homes train side by side")
    summary = commands.run(
        simulation,
        run_dir,
        resume=chosen.resume,
        quiet=quiet,
        tensorboard=chosen.tensorboard,
        bounds=chosen.bounds,
    )
    if not quiet:
        from rich.console import Console

        from mmfl_jax.report import result_table

        Console().print(result_table(summary))
        print(f"report: {run_dir / 'report.html'}")


def _limits(study: Study, archive: Archive, given: set[str]) -> Iterator[str]:
    """Tell which limits of the study hold for an archive on disk, which a user would expect to be taken whole."""
    limits = {"samples": study.data.samples}
    if any(len(spec.shape) == 3 for spec in archive.modalities.values()):
        limits["image_size"] = study.data.image_size
    kept = [f"{flag(name)} {value}" for name, value in limits.items() if value and name not in given]
    if kept and "archive" in given and ":" in study.data.archive:
        yield f"{' and '.join(kept)} of this study hold for {study.data.archive} too; 0 takes all, at their own size"


def _check_several(chosen: Run) -> None:
    """Raise UserError where several processes cannot do what is asked, or are not asked for the same."""
    from mmfl_jax import cluster
    from mmfl_jax.runs import versions

    if not cluster.several():
        return
    if chosen.bounds:
        raise UserError("--bounds runs on one host only; run it after the run, with --resume, in one process")
    if chosen.run_dir is None:
        raise UserError(
            "--run-dir is needed where several processes run one study: a directory on a disk that all share"
        )
    same = {name: value for name, value in versions().items() if name not in ("platform", "device")}
    here = {"--run-dir": str(chosen.run_dir), "--resume": chosen.resume}
    cluster.agree({"options": {**chosen.study.flat(), **here}, "versions": same})


@options
class Sweep:
    """Run a study for every combination of values and every seed, and compare; the same command goes on after a stop.

    Each run has a directory of its own in --run-dir, beside sweep.json, comparison.json, .md and .png.
    """

    study: OmitArgPrefixes[Study]
    vary: UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE: a field of the study and its values; may be given again for further fields."""
    folds: UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE: as --vary, but the values' runs count as one, by their mean."""
    seeds: Positive = 1
    """How many seeds, from --seed on."""
    run_dir: Path | None = None
    """Directory of the sweep."""
    quiet: bool = False
    """Show no progress and no tables."""


def sweep(reference: str, arguments: list[str]) -> None:
    """Sweep over the study ``reference`` with the options in ``arguments``."""
    study = load_study(reference)
    chosen = parse(Sweep, f"mmfl-jax sweep {reference}", arguments, Sweep(study=study))
    if chosen.run_dir is None:
        raise UserError("mmfl-jax sweep needs --run-dir, the directory of the sweep")
    from mmfl_jax.runs.grid import make_grid, open_grid

    grid = make_grid(chosen.study, chosen.vary, chosen.folds, chosen.seeds)
    studies = open_grid(chosen.run_dir, grid)
    make_devices(max(study.execution.devices for study in studies))
    from mmfl_jax import commands

    commands.sweep(studies, chosen.run_dir, tuple(grid.folds), quiet=chosen.quiet)
