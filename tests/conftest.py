"""What every test sees: one CPU device unless the process asks for more."""

import logging

logging.getLogger("absl").setLevel(logging.ERROR)
