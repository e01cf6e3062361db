"""Makes the plugins importable as Airflow does: their folder is on the import path."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGINS = str(Path(__file__).resolve().parents[2] / "airflow" / "plugins")

if PLUGINS not in sys.path:
    sys.path.append(PLUGINS)
