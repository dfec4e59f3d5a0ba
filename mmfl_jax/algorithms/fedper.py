"""FedPer: personal heads."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Algorithm


def fedper() -> Algorithm:
    """FedPer: FedAvg of the encoders; each client keeps a head of its own, trained together with them.

    Travels: FedAvg's parameters but those of layers named ``head``. Use it when clients label the same land
    differently.

    References:
      Arivazhagan et al., "Federated Learning with Personalization Layers", 2019 (arXiv 1912.00818).
    """
    return Algorithm(private=("head",))
