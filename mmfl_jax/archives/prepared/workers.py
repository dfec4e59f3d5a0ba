"""Write shards in worker processes, which import no JAX."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mmfl_jax.archives.base import Archive
from mmfl_jax.archives.prepared.layout import Manifest
from mmfl_jax.archives.prepared.writing import Shard, Writer
from mmfl_jax.errors import UserError, one_line

_writer: Writer
_read_so_far: Any


def _start(archive: Archive, manifest: Manifest, read_so_far: Any) -> None:
    """Make a process ready to write shards; it ends with the process that started it, however that ends."""
    global _writer, _read_so_far
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the first process ends the others
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    warnings.simplefilter("ignore")
    _writer, _read_so_far = Writer(archive, manifest), read_so_far


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _write_shard(shard: Shard) -> None:
    _writer.write(shard, _tell)


def _tell(samples: int) -> None:
    with _read_so_far.get_lock():
        _read_so_far.value += samples


def write_shards(
    archive: Archive, manifest: Manifest, shards: Sequence[Shard], workers: int, told: Callable[[int], None]
) -> None:
    """Write shards, in this process or in workers.

    Args:
        archive: the source.
        manifest: of the copy.
        shards: to write.
        workers: how many processes; 1 for this one alone.
        told: is called with the number of samples that are done.

    Raises:
        UserError: a shard cannot be written, or a worker was ended.
    """
    told(0)
    if workers == 1 or len(shards) < 2:
        done = 0

        def tell(samples: int) -> None:
            nonlocal done
            told(done := done + samples)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = Writer(archive, manifest)
            for shard in shards:
                writer.write(shard, tell)
        return
    try:
        pickle.dumps(archive)
    except Exception as error:  # of whatever kind its parts raise
        raise UserError(
            f"archive {archive.name} cannot be sent to worker processes ({one_line(error)}); --workers 1 does without"
        ) from error
    context = multiprocessing.get_context("spawn")
    read_so_far = context.Value("q", 0)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(shards)), context, _start, (archive, manifest, read_so_far)
    )
    try:
        waiting = {pool.submit(_write_shard, shard) for shard in shards}
        while waiting:
            done_now, waiting = concurrent.futures.wait(waiting, 0.25, concurrent.futures.FIRST_EXCEPTION)
            for future in done_now:
                future.result()
            told(read_so_far.value)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was ended from outside, perhaps for want of memory; the same command goes on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
