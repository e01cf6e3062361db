"""`python -m steps.train`."""

from __future__ import annotations

from steps.common.alone import main
from steps.common.local_ray import local_ray
from steps.train import TrainConfig, run

if __name__ == "__main__":
    with local_ray():
        code = main(run, TrainConfig)
    raise SystemExit(code)
