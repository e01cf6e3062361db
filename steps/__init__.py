"""The steps of the loop: scrape, validate, version, tune, train, evaluate, deploy, monitor."""
