"""The federation: partitions, modality sets, groups of clients, test split, and who takes part when."""

from mmfl_jax.federation.federation import Federation, Group

__all__ = ["Federation", "Group"]
