"""The platform that operations are traced for: that of the mesh they will run on, not of this process's default."""

from typing import Any

import jax

# Part of jit's cache key, as the form of convolutions is.
_platform = jax.make_user_context(default_value=None)


def compiled_for(platform: str | None) -> Any:
    """Trace for a platform (``cpu``, ``gpu``, ``tpu``) within this context; None is JAX's default backend."""
    return _platform(platform)


def traced_platform() -> str:
    """Return the platform that is traced for."""
    return _platform.value or jax.default_backend()
