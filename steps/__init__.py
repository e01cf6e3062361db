"""The steps of the loop, in the order in which data passes them: scrape, validate, version, tune, train, evaluate, deploy, monitor."""
