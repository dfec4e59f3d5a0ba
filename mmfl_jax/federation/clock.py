"""A virtual clock: how long clients take to train and to be heard, in simulated seconds.

Nothing is measured here: speeds and bandwidths are drawn once for a federation, and a round of training on any machine
takes as long as it would on those clients.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream, generator
from mmfl_jax.federation.federation import Federation

FORMS = "constant:VALUE, lognormal:MEDIAN:SIGMA, uniform:LOW:HIGH or column:ATTRIBUTE"


@dataclasses.dataclass(frozen=True, eq=False)
class Clock:
    """Hold what each client can do; made by :meth:`of`.

    Attributes:
      speed: ``[clients]`` local steps a second.
      bandwidth_up: ``[clients]`` bytes a second to the server.
      bandwidth_down: ``[clients]`` bytes a second from it.
    """

    speed: np.ndarray
    bandwidth_up: np.ndarray
    bandwidth_down: np.ndarray

    @classmethod
    def of(
        cls,
        federation: Federation,
        speed: str = "constant:10",
        bandwidth_up: str = "constant:1e6",
        bandwidth_down: str = "constant:1e7",
        seed: int = 0,
    ) -> Clock:
        """Return the clock of a federation; see :func:`client_values` for what the references mean.

        Args:
          federation: the clients.
          speed: local steps a second.
          bandwidth_up: bytes a second to the server.
          bandwidth_down: bytes a second from it.
          seed: of every draw.

        Raises:
          UserError: for a reference that is none, or a value that is no positive number.
        """
        references = {"speed": speed, "bandwidth-up": bandwidth_up, "bandwidth-down": bandwidth_down}
        return cls(
            *(
                client_values(federation, reference, generator(seed, Stream.CLOCK, number), option)
                for number, (option, reference) in enumerate(references.items())
            )
        )

    def seconds(
        self,
        members: np.ndarray,
        steps: np.ndarray | float,
        bytes_up: np.ndarray | float,
        bytes_down: np.ndarray | float,
    ) -> np.ndarray:
        """Return ``[n]`` how long each client takes: to receive, to train and to send, one after the other.

        Args:
          members: ``[n]`` numbers of clients.
          steps: local steps, ``[n]`` or the same for all.
          bytes_up: what each sends.
          bytes_down: what each receives.
        """
        train = np.asarray(steps) / self.speed[members]
        return train + bytes_up / self.bandwidth_up[members] + bytes_down / self.bandwidth_down[members]

    def round_seconds(
        self,
        members: np.ndarray,
        steps: np.ndarray | float,
        bytes_up: np.ndarray | float,
        bytes_down: np.ndarray | float,
    ) -> float:
        """Return how long a synchronous round takes: as long as its slowest client, and 0 without any."""
        return float(self.seconds(members, steps, bytes_up, bytes_down).max(initial=0.0))


def client_values(federation: Federation, reference: str, rng: np.random.Generator, option: str) -> np.ndarray:
    """Return a positive number for each client, ``[clients]`` by client number.

    Args:
      federation: the clients.
      reference: ``constant:VALUE`` (``inf`` takes no time at all); ``lognormal:MEDIAN:SIGMA`` (SIGMA is of the natural
        logarithm: about two thirds of clients lie within a factor of e^SIGMA of the median); ``uniform:LOW:HIGH``; or
        ``column:ATTRIBUTE`` (the mean of an attribute of the archive over the client's samples).
      rng: of the draw.
      option: that the reference was given by, for errors.

    Raises:
      UserError: for a reference that is none, or a value that is no positive number.
    """
    form, _, rest = reference.partition(":")
    if form == "column" and rest:
        return _column(federation, rest, reference, option)
    wanted = {"constant": 1, "lognormal": 2, "uniform": 2}.get(form)
    try:
        numbers = [float(text) for text in rest.split(":")]
    except ValueError:
        numbers = []
    if wanted != len(numbers):
        raise UserError(f"--{option} {reference!r} is unknown; {FORMS}")
    first, last, clients = numbers[0], numbers[-1], federation.clients
    if form == "constant" and first > 0:
        return np.full(clients, first)
    if form == "lognormal" and 0 < first < np.inf and 0 <= last < np.inf:
        return first * np.exp(last * rng.standard_normal(clients))
    if form == "uniform" and 0 < first <= last < np.inf:
        return rng.uniform(first, last, clients)
    right = {"constant": "VALUE > 0", "lognormal": "MEDIAN > 0 and SIGMA >= 0", "uniform": "0 < LOW <= HIGH"}[form]
    raise UserError(f"--{option} {reference!r}: needs {right}")


def _column(federation: Federation, name: str, reference: str, option: str) -> np.ndarray:
    column = federation.archive.attribute(name)
    if column.dtype.kind not in "iuf":
        raise UserError(f"--{option} {reference!r}: attribute {name} holds text; numbers are needed")
    values = np.zeros(federation.clients)
    for group in federation.groups:
        # No client is without samples, so that every row has a sum.
        sums = np.add.reduceat(column[group.samples].astype(np.float64), group.offsets[:-1])
        values[group.ids] = sums / group.sizes
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(wrong):
        raise UserError(
            f"--{option} {reference!r}: client {wrong[0]} has a mean of {values[wrong[0]]:g}; each must be above 0"
        )
    return values
