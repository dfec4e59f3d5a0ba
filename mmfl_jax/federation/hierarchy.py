"""Hierarchy: which server a client is under, by an attribute of its samples."""

from __future__ import annotations

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.federation import Federation
from mmfl_jax.federation.ragged import row_numbers
from mmfl_jax.memory import check_fits


def servers_of(federation: Federation, attribute: str) -> np.ndarray:
    """Return ``[clients]`` int32: the number of each client's server, one for each value that occurs.

    A client whose samples have several values is under the server of the most frequent one.

    Raises:
      UserError: for an attribute that the archive lacks.
    """
    known = federation.archive.attributes
    if attribute not in known:
        raise UserError(
            f"--servers {attribute!r}: the archive has no such attribute; it has {', '.join(known) or 'none'}"
        )
    names, value = np.unique(np.asarray(federation.archive.attribute(attribute)).astype(str), return_inverse=True)
    chosen = np.zeros(federation.clients, np.int32)
    check_fits(f"--servers {attribute}: {len(names):,} servers", 8 * federation.clients * len(names))
    for group in federation.groups:
        counts = np.zeros((len(group.ids), len(names)), np.int64)
        np.add.at(counts, (row_numbers(group.offsets), value[group.samples]), 1)
        chosen[group.ids] = counts.argmax(axis=1)
    # Values of which nobody has most have no server.
    return np.unique(chosen, return_inverse=True)[1].astype(np.int32)
