"""`python -m steps.monitor`: the step alone."""

from steps.common.alone import main
from steps.monitor.config import MonitorConfig
from steps.monitor.step import run

raise SystemExit(main(run, MonitorConfig))
