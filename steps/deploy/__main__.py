"""`python -m steps.deploy`: the whole rollout alone, on the Ray at RAY_ADDRESS or one of its own."""

from __future__ import annotations

from steps.common.alone import main
from steps.deploy import DeployConfig, run

if __name__ == "__main__":
    raise SystemExit(main(run, DeployConfig))
