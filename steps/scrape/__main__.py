"""`python -m steps.scrape`: crawls once and prints the result; see `steps.common.alone`."""

from __future__ import annotations

from steps.common.alone import main
from steps.common.local_ray import local_ray
from steps.scrape import ScrapeConfig, run

if __name__ == "__main__":
    with local_ray():
        code = main(run, ScrapeConfig)
    raise SystemExit(code)
