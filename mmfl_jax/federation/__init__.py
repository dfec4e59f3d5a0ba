"""The federation: partitions, modality sets, groups of clients, test split."""

from mmfl_jax.federation.federation import Federation, Group

__all__ = ["Federation", "Group"]
