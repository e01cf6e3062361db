"""`python -m steps.validate`: runs the step alone."""

from steps.common.alone import main
from steps.validate.config import ValidateConfig
from steps.validate.step import run

raise SystemExit(main(run, ValidateConfig))
