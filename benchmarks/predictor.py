"""Kendall tau of every model on published tables: python benchmarks/predictor.py --help, or see benchmarks/ranking.py.

This file has the name of a package, and Python looks in a script's folder first: what is measured lies in another file,
and a script beside this one that imports the package gets the package.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

if __name__ == "__main__":
    raise SystemExit(importlib.import_module("benchmarks.ranking").main())
if __name__ == "predictor":
    del sys.modules["predictor"]
    importlib.import_module("predictor")
