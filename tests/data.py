"""Where published measurements lie, if they do: tests that need them are skipped elsewhere."""

import os
from pathlib import Path

DATA = Path(os.environ.get("GENAS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TABLES = DATA / "tables"
IMAGES = DATA / "images"
