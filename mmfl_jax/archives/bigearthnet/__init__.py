"""BigEarthNet-MM, v1 and v2: as published, a folder a patch; as an LMDB of rico-hdl; or prepared."""

from mmfl_jax.archives.bigearthnet.archive import BigEarthNet

__all__ = ["BigEarthNet"]
