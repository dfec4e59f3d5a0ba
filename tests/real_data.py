"""Where small real data may lie: tests that want them are skipped where they do not."""

import os
from pathlib import Path

#: With folders bigearthnet_v1, bigearthnet_v2, worldcereal_canada, tiles and scenes.
REAL_DATA = Path(os.environ.get("MMFL_JAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
