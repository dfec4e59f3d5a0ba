"""Several processes that run one program, a host each: how they join, agree, and hear that one of them is gone.

JAX's own multi-controller runtime does the work; every process runs the same lines in the same order. Process 0 leads:
it alone prints and writes, but for checkpoints, which all write.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from mmfl_jax.cpu_devices import give_threads
from mmfl_jax.errors import UserError, one_line

#: Seconds between two signs of life of a process, and without one until it is taken for lost.
BEAT, SILENCE = 3, 25
# JAX's runtime ends a process that hears nothing of another so long, with a stack trace: only where ours could not.
_HEARTBEAT = 60
_ERRORS, _ALIVE = "mmfl_jax/errors", "mmfl_jax/alive"
#: Whether errors of a user are shown with their traceback.
debug = False
# What can be done after a loss; the run says it.
_advice: list[Callable[[], str]] = []


def join(coordinator: str = "", processes: int = 0, process_id: int = -1, timeout: int = 300) -> None:
    """Join the other processes, before JAX computes anything; do nothing where there is no cluster.

    Args:
      coordinator: ``HOST:PORT`` of process 0; empty to ask JAX whether it knows this cluster (Cloud TPU, GKE, Slurm,
        Open MPI).
      processes: how many there are, with ``coordinator``.
      process_id: which of them this is, from 0.
      timeout: seconds to wait for the others.

    Raises:
      UserError: for options that do not fit together, or where the others do not come.
    """
    if not coordinator:
        if processes or process_id >= 0:
            raise UserError("--processes and --process-id need --coordinator, HOST:PORT of process 0")
        if not _known_cluster():
            return
    else:
        _check(coordinator, processes, process_id)
        if process_id:
            _wait_for(coordinator, timeout)
    import jax

    give_threads()
    # It would take SIGTERM for itself; a run has its own way of leaving at a signal.
    jax.config.update("jax_enable_preemption_service", False)
    given: dict[str, Any] = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process_id}
    where = f"--coordinator {coordinator}" if coordinator else "this cluster"
    # JAX's runtime would abort with a stack trace.
    late = threading.Timer(timeout, _end, (f"{where}: not all processes came within {timeout} s", 2))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **(given | {"cluster_detection_method": "deactivate"} if coordinator else {}),
            initialization_timeout=timeout + 5,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{where}: the processes did not come together ({one_line(error)[:300]})") from error
    finally:
        late.cancel()
    if several():
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(_client(), _state().process_id, over), daemon=True, name="watch")
        watch.start()
        atexit.register(_part, watch, over)


def _check(coordinator: str, processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator {coordinator!r} is no address; HOST:PORT, such as 10.0.0.1:8476")
    if processes < 1 or not 0 <= process_id < processes:
        raise UserError(
            "--coordinator needs --processes N and --process-id I, I from 0 to N - 1; they are "
            f"{processes} and {process_id}"
        )


def _wait_for(coordinator: str, timeout: int) -> None:
    """Wait until process 0 listens."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"--coordinator {coordinator}: nobody answered within {timeout} s ({error.strerror or error}); "
                    "start process 0 there, and let its port through"
                ) from None
            time.sleep(0.5)


def _part(watch: threading.Thread, over: threading.Event) -> None:
    """Leave the cluster in order: wait for the others, of which the watch still hears meanwhile, and end the watch."""
    import jax

    with contextlib.suppress(Exception):  # it ends as it may; what went wrong has been said
        jax.distributed.shutdown()
    over.set()
    # Python ends a thread that is left where it stands, in the middle of JAX's runtime, which then aborts.
    watch.join(timeout=2 * BEAT)


def _watch(client: Any, own: int, over: threading.Event) -> None:
    """Give signs of life, and end this process where another gives none: it may wait for that one for ever."""
    heard: dict[str, tuple[str, float]] = {}
    for number in itertools.count():
        try:
            client.key_value_set(f"{_ALIVE}/{own}", str(number), allow_overwrite=True)
            beats = client.key_value_dir_get(_ALIVE)
        except Exception:  # the runtime has come to its end: in order, or because process 0 is gone, as JAX will say
            return
        now = time.monotonic()
        for key, beat in beats:
            if heard.get(key, ("",))[0] != beat:
                heard[key] = beat, now
        for key, (_, since) in heard.items():
            if now - since > SILENCE:
                gone = key.rpartition("/")[2]
                leave(lost(f"process {gone} was lost, nothing is heard of it any more"), 2)
        if over.wait(BEAT):
            return


def _known_cluster() -> bool:
    """Return whether JAX finds itself in a cluster of more than one process."""
    try:
        from jax._src.clusters import ClusterEnv

        with warnings.catch_warnings(action="ignore"):
            present = [
                kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method and kind.is_env_present()
            ]
            return bool(present) and int(present[0].get_process_count()) > 1
    except Exception:  # another JAX, or a cluster that does not say: it has to be told
        return False


def several() -> bool:
    """Return whether this process is one of several; JAX is not started for the question."""
    return _client() is not None and _state().num_processes > 1


def count() -> int:
    """Return how many processes there are."""
    return _state().num_processes if several() else 1


def leads() -> bool:
    """Return whether this process prints and writes."""
    return not several() or _state().process_id == 0


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    return _state().client if "jax" in sys.modules else None


def gathered(array: np.ndarray) -> np.ndarray:
    """Return ``[processes, ...]``: an array of one shape and type that every process has, of all of them."""
    array = np.ascontiguousarray(array)
    if not several():
        return array[None]
    from jax.experimental import multihost_utils

    # As bytes: JAX would make float32 of float64.
    found = np.asarray(multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8)))
    return np.ascontiguousarray(found).view(array.dtype).reshape(len(found), *array.shape)


def said(text: str) -> list[str]:
    """Return what each process says."""
    content = text.encode()
    table = gathered(np.frombuffer(content.ljust(most(len(content)), b"\0"), np.uint8))
    return [row.tobytes().rstrip(b"\0").decode() for row in table]


def agree(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError on every process where one has other facts than process 0.

    Args:
      facts: by what they are of ("study", "versions", "data"), values by name that JSON can hold.
    """
    if not several():
        return
    first, *others = (json.loads(text) for text in said(json.dumps(facts, default=str)))
    for number, other in enumerate(others, start=1):
        for what, values in first.items():
            differing = [name for name in {**values, **other[what]} if values.get(name) != other[what].get(name)]
            if differing:
                name = differing[0]
                raise UserError(
                    f"process {number} has other {what} than process 0: {name} {other[what].get(name)!r}, not "
                    f"{values.get(name)!r}; start all with the same"
                )


def most(number: int) -> int:
    """Return the largest of all processes' numbers."""
    return int(gathered(np.array(number)).max())


def least(number: int) -> int:
    """Return the smallest of all processes' numbers."""
    return int(gathered(np.array(number)).min())


def leave(line: str, code: int) -> NoReturn:
    """End this process, which cannot go on, at once: say why, also to the others."""
    with contextlib.suppress(Exception):
        _client().key_value_set(f"{_ERRORS}/{_state().process_id}", line)
    _end(line, code)


def _end(line: str, code: int) -> NoReturn:
    with contextlib.suppress(Exception):
        sys.stderr.write(f"mmfl-jax: {'' if leads() else f'process {_state().process_id}: '}{line}\n")
        sys.stdout.flush()
        sys.stderr.flush()
    # An orderly end would wait for the others, who may be waiting for this one.
    os._exit(code)


def end(error: Exception) -> NoReturn:
    """End this process, which an error has befallen, at once: say which, also to the others."""
    known = isinstance(error, UserError | OSError)
    if debug or not known:
        traceback.print_exception(error)
    leave(one_line(error) if known else "an error that is told above", 2 if known else 1)


@contextlib.contextmanager
def ending(*agreed: type[Exception], advice: Callable[[], str] | None = None) -> Iterator[None]:
    """End this process at an error where it is one of several: what is closed on the way out would wait for the others.

    Args:
      agreed: errors that all processes raise together, and that leave in order.
      advice: says what can be done where another process is lost meanwhile, which JAX may hear of first.
    """
    import jax

    if advice is not None:
        _advice.append(advice)
    try:
        yield
    except agreed:
        raise
    except Exception as error:
        if not several():
            raise
        # A loss may also show first where a checkpoint is written, which has a line of its own for what it meets.
        for met in (error, error.__cause__):
            if isinstance(met, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(met):
                leave(lost(f"a process was lost ({one_line(met)[:200]})"), 2)
        end(error)
    finally:
        if advice is not None:
            _advice.remove(advice)


def lost(line: str) -> str:
    """Return why another process is gone: what one said last, or ``line``; and what can be done."""
    with contextlib.suppress(Exception):
        for key, said_last in _client().key_value_dir_get(_ERRORS):
            line = f"process {key.rpartition('/')[2]} left: {said_last}"
    return "; ".join([line, *(advice() for advice in _advice)])
