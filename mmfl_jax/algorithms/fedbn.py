"""FedBN: normalisation stays with the client."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Algorithm


def fedbn() -> Algorithm:
    """FedBN: FedAvg of all but the normalisation layers, whose scales and moments are each client's own.

    Travels: FedAvg's parameters but those of layers named ``norm``. Use it when sensors or landscapes differ between
    clients while labels do not.

    References:
      Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021.
    """
    return Algorithm(private=("norm",))
