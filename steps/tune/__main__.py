"""`python -m steps.tune`."""

from __future__ import annotations

from steps.common.alone import main
from steps.common.local_ray import local_ray
from steps.tune import TuneConfig, run

if __name__ == "__main__":
    with local_ray():
        code = main(run, TuneConfig)
    raise SystemExit(code)
