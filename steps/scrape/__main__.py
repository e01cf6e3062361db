"""`python -m steps.scrape`: crawls once and prints the result; see `steps.common.alone`."""

from steps.common.alone import main
from steps.scrape import ScrapeConfig, run

if __name__ == "__main__":
    raise SystemExit(main(run, ScrapeConfig))
