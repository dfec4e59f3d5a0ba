"""What every test sees: one CPU device unless the process asks for more, and what was compiled before."""

import logging
import os
import tempfile

logging.getLogger("absl").setLevel(logging.ERROR)

# Many tests compile the same programs, here and in processes that they start. A folder for each worker: JAX does not
# write whole files at once, and another reader of half a file would warn.
_COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
