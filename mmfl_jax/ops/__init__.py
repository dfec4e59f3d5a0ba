"""Operations that stay fast when every client has its own weights."""

from mmfl_jax.ops.conv_choice import FORMS, conv_form
from mmfl_jax.ops.convolution import conv_general_dilated
from mmfl_jax.ops.dense import dot_general
from mmfl_jax.ops.lanes import clients_in_lanes, in_lanes, join_channels, lanes_are_used
from mmfl_jax.ops.pooling import max_pool

__all__ = [
    "FORMS",
    "clients_in_lanes",
    "conv_form",
    "conv_general_dilated",
    "dot_general",
    "in_lanes",
    "join_channels",
    "lanes_are_used",
    "max_pool",
]
