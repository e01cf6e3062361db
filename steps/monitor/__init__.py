"""Step 9: watches what the champion is asked, and raises a signal when that changes."""

from steps.monitor.config import MonitorConfig
from steps.monitor.step import run

__all__ = ["MonitorConfig", "run"]
