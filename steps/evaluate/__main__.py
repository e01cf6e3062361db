"""`python -m steps.evaluate`."""

from __future__ import annotations

from steps.common.alone import main
from steps.common.local_ray import local_ray
from steps.evaluate import EvaluateConfig, run

if __name__ == "__main__":
    with local_ray():
        code = main(run, EvaluateConfig)
    raise SystemExit(code)
