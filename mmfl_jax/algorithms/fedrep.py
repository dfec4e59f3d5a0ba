"""FedRep: personal heads, trained before the shared representation."""

from __future__ import annotations

import jax

from mmfl_jax.algorithms.algorithm import Algorithm, Local


def fedrep(head_steps: int = 5) -> Algorithm:
    """FedRep: each client first fits a head of its own to the received representation, then trains that alone.

    Of a round's local steps, the first ``head_steps`` train the head, the others all but the head.

    Travels: FedAvg's parameters but those of layers named ``head``. Use it as FedPer, when heads need time of their
    own.

    Args:
      head_steps: how many steps the head has; the paper uses ten epochs of the head and one of the body. A client keeps
        at least its last step for the body.

    References:
      Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021.
    """

    def phase(local: Local) -> tuple[jax.Array, jax.Array]:
        head = (local.step < head_steps) & (local.step < local.steps - 1)
        return ~head, head

    return Algorithm(private=("head",), phase=phase)
