"""Checkpoints of the server state, by Orbax: asynchronous, the last ones kept, and the best by validation samples.

What clients keep is saved as it lies, each device's rows by the host of the device, with the row of every client; so it
goes back to any number of devices.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from mmfl_jax import cluster
from mmfl_jax.engine.data import filled
from mmfl_jax.engine.mesh import put_parts
from mmfl_jax.engine.state import Kept, ServerState
from mmfl_jax.errors import UserError
from mmfl_jax.federation.placement import Placement

# Runs of before wrote another name: their scores were of test samples, by which nothing is chosen.
_SCORE = "validation"
# The row of every client, a group an entry, where clients live on several devices.
_ROWS = "rows"


def _fields(state: ServerState) -> dict[str, Any]:
    """Return what of a state is saved; what the model is given is there again when it is built."""
    return {**{field.name: getattr(state, field.name) for field in dataclasses.fields(state)}, "frozen": {}}


def _on_host(like: Any, saved: Any) -> Any:
    """Return what stands for arrays that are to be read into host memory, as long as they were saved."""
    rows = {x.shape[0] for x in jax.tree.leaves(saved)}
    # It takes no memory itself.
    stand_in = lambda x: np.broadcast_to(np.zeros((), x.dtype), (*rows, *x.shape[1:]))
    return jax.tree.map(stand_in, like)


def _reason(error: Exception) -> str:
    """Return the first line of what an error says, or what TensorStore heard of the system, which it tells last."""
    said = (error.strerror if isinstance(error, OSError) else str(error).strip()) or type(error).__name__
    system = re.search(r"([^:\n]+) \[os_error_code=", said)
    return system[1].strip() if system else said.splitlines()[0][:200]


def saved_rounds(directory: Path) -> list[int]:
    """Return the rounds whose checkpoints are finished, in order: Orbax renames a folder to the number at last."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())


@dataclasses.dataclass
class _Behind:
    """Hold what is written behind, within a context."""

    written: Any
    within: Callable[[], contextlib.AbstractContextManager[None]]

    def result(self, timeout: float | None = None) -> Any:
        """Wait until it is."""
        with self.within():
            return self.written.result(timeout)


class _Handler(ocp.StandardCheckpointHandler):
    """Write as Orbax does, and do all that is done behind within a context."""

    def __init__(self, within: Callable[[], contextlib.AbstractContextManager[None]]):
        super().__init__()
        self._within = within

    async def async_save(self, *args: Any, **options: Any) -> Any:
        """Begin to write."""
        return [_Behind(written, self._within) for written in await super().async_save(*args, **options) or ()]

    def finalize(self, directory: Any) -> None:
        """End it, in process 0, when all have written."""
        with self._within():
            super().finalize(directory)


@ocp.args.register_with_handler(_Handler, for_save=True)
class _Save(ocp.args.StandardSave):
    pass


@ocp.args.register_with_handler(_Handler, for_restore=True)
class _Restore(ocp.args.StandardRestore):
    pass


class Checkpoints:
    """Save and restore server states in a directory.

    A save is finished by one rename, so a process killed in the middle of it leaves the save before it whole.

    Args:
        directory: to save in; made where it does not exist.
        placement: the homes of clients; None for one device.
        read_only: only restore.

    Raises:
        UserError: for a directory whose checkpoints are damaged.
    """

    def __init__(self, directory: Path, placement: Placement | None = None, *, read_only: bool = False):
        self.directory, self._placement = directory.resolve(), placement
        if read_only and not self.directory.is_dir():
            raise UserError(f"{self.directory} does not exist: the run has saved no checkpoint")
        score = lambda metrics: metrics.get(_SCORE, 0.0)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(n=2), BestN(get_metric_fn=score, n=1)]),
            best_fn=score,
            # A run that is only looked at may be saving at this moment.
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        try:
            handler = _Handler(self._behind)
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handler)
        except Exception as error:  # it reads the scores at once, and JSON and Orbax each raise their own kinds
            advice = "delete the newest of them to resume from the one before, or start again in a new directory"
            raise UserError(f"checkpoints in {self.directory} cannot be read ({_reason(error)}); {advice}") from error

    def rounds(self) -> list[int]:
        """Return the rounds that can be restored, in order."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """Return the round with the best score, of equal ones the last; None when there is none."""
        return self._manager.best_step()

    def save(self, round_number: int, state: ServerState, score: float) -> None:
        """Begin to save ``state``; the arrays are copied before this returns, the writing goes on behind.

        Args:
            round_number: after which it is.
            state: to save.
            score: of validation samples, by which the best is kept; the same for all where there are none.
        """
        if round_number in self._manager.all_steps():
            return
        saved = _fields(state)
        if self._placement is not None and self._placement.devices > 1:
            saved[_ROWS] = [homes.positions for homes in self._placement.groups]
        with self._writing():  # the save before it may have failed behind
            self._manager.save(round_number, args=_Save(saved), metrics={_SCORE: score})

    def restore(self, like: ServerState, round_number: int | None = None) -> tuple[int, ServerState]:
        """Return the round and the state of a checkpoint, the last one by default.

        Args:
            like: a state of the same structure (arrays or shapes with shardings), whose frozen values are kept.
            round_number: which one.

        Raises:
            UserError: when there is none, or it is damaged or of another study.
        """
        known = self.rounds()
        if not known:
            raise UserError(f"{self.directory} holds no finished checkpoint; run without --resume in a new directory")
        chosen = known[-1] if round_number is None else round_number
        if chosen not in known:
            raise UserError(f"{self.directory} holds no checkpoint of round {chosen}; there are {known}")
        try:
            state = self._read(chosen, like)
        except Exception as error:  # Orbax, TensorStore and JSON each raise their own kinds
            others = [r for r in known if r != chosen]
            advice = f"delete it to resume from round {others[-1]}" if others else "start again in a new directory"
            place = self.directory / str(chosen)
            raise UserError(f"checkpoint {place} cannot be read ({_reason(error)}); {advice}") from error
        return chosen, state

    def _read(self, chosen: int, like: ServerState) -> ServerState:
        fields = _fields(like)
        known = self._manager.item_metadata(chosen)
        # Clients may have lain otherwise: their rows are read into host memory, and each goes to its home of now.
        fields["clients"] = tuple(map(_on_host, fields["clients"], known["clients"]))
        if _ROWS in known:
            fields[_ROWS] = [_on_host(np.zeros(1, np.int64), saved) for saved in known[_ROWS]]
        abstract = jax.tree.map(
            lambda x: x if isinstance(x, np.ndarray) else ocp.utils.to_shape_dtype_struct(x), fields
        )
        found = self._manager.restore(chosen, args=_Restore(abstract))
        rows = found.pop(_ROWS, [None] * len(like.clients))
        clients = tuple(self._at_home(g, kept, rows[g], like.clients[g]) for g, kept in enumerate(found["clients"]))
        return ServerState(**{**found, "clients": clients, "frozen": like.frozen})

    def _at_home(self, group: int, saved: Kept, rows: np.ndarray | None, like: Kept) -> Kept:
        """Return what a group's clients kept, on their devices of now."""
        if any(isinstance(x, np.ndarray) for x in jax.tree.leaves(like)):
            return self._written_on_host(group, saved, rows, like)
        lying = {x.sharding for x in jax.tree.leaves(like)}
        if not lying or self._placement is None or self._placement.devices == 1:
            return jax.tree.map(lambda v, x: jax.device_put(v if rows is None else v[rows], x.sharding), saved, like)
        homes, mesh = self._placement.groups[group], lying.pop().mesh

        def part(device: int) -> Kept:
            own = homes.clients(device)
            return jax.tree.map(lambda v: filled(v[own if rows is None else rows[own]], homes.rows), saved)

        return put_parts(mesh, part)

    def _written_on_host(self, group: int, saved: Kept, rows: np.ndarray | None, like: Kept) -> Kept:
        """Write what clients kept where it lies on the host, and return it."""
        assert self._placement is not None
        homes = self._placement.groups[group]
        for table, values in zip(jax.tree.leaves(like), jax.tree.leaves(saved)):
            table[homes.positions] = values if rows is None else values[rows]
        return like

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: where it cannot be.
        """
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Wait until everything is written, and let go of the directory."""
        try:
            self.wait()
        finally:
            with self._writing():
                self._manager.close()

    @contextlib.contextmanager
    def _behind(self) -> Iterator[None]:
        """End a process that cannot write what the others have: in order, all would wait for Orbax's twenty minutes."""
        if not cluster.several():  # who waits for it hears of it
            yield
            return
        with cluster.ending(), self._writing():
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax, TensorStore and the system each raise their own kinds
            saved = saved_rounds(self.directory)
            kept = f"; that of round {saved[-1]} is kept" if saved else ""
            raise UserError(f"{self.directory}: a checkpoint cannot be written ({_reason(error)}){kept}") from error
