# `make run` and `make test` need Python 3.11 or 3.12 with venv, git and make; everything else is brought here.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
RUN := $(UV) run --no-sync
EXTRAS ?=
export UV_COMPILE_BYTECODE := 1
export UV_PYTHON_DOWNLOADS := never
# Under `uv run` Ray would give each worker a copy of the project and an environment of its own.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.DEFAULT_GOAL := help
.PHONY: services run up test check fix bench chaos setup down help images cluster cluster-full

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.tools/bin/uv:
	@test -n "$(PYTHON)" || { echo "Everloop needs Python 3.11 or 3.12 with the venv module; set PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'

.venv/.synced: pyproject.toml uv.lock | $(filter .tools/bin/uv,$(UV))
	$(UV) sync --locked --inexact $(if $(PYTHON),--python $(PYTHON)) $(foreach extra,$(EXTRAS),--extra $(extra))
	@touch $@

setup: .venv/.synced  ## install the environment (EXTRAS="browser minio" adds extras)

run: .venv/.synced  ## the whole loop once, recipe `tiny`; ARGS="--recipe nano --json" passes flags on
	$(RUN) python -m workflows.run $(ARGS)

up: .venv/.synced  ## everything around the loop: MinIO, MLflow, Ray, the door, the reconciler, Prometheus, Alertmanager
	@$(RUN) python -c 'import minio' 2>/dev/null || $(UV) sync --locked --inexact --extra minio
	$(RUN) python -m workflows.services up $(ARGS)

down: .venv/.synced  ## stop what `make up` started, and the local Ray that a run left answering
	$(RUN) python -m workflows.services down
	$(RUN) env -u EVERLOOP_STORAGE python -m workflows.run --down $(ARGS)

test: .venv/.synced  ## the fast tests, under 10 minutes on 2 cores
	$(RUN) pytest -m "not (slow or chaos or services or cluster or browser or alibi or e2e)" $(ARGS)

check: .venv/.synced  ## format, lint, types, imports
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) mypy
	$(RUN) lint-imports

fix: .venv/.synced  ## format and mend what can be mended
	$(RUN) ruff check --fix
	$(RUN) ruff format

chaos: .venv/.synced  ## kill -9 everywhere; long, by hand
	$(RUN) pytest -m chaos --timeout=1800 $(ARGS)

services: .venv/.synced  ## every test against real neighbours: MinIO, Airflow, n8n, Prometheus; long, by hand
	$(RUN) pytest -m services --timeout=1800 $(ARGS)

bench: .venv/.synced  ## every benchmark with its peer in the same run; long, by hand
	for bench in tests/bench/*.py; do name=$$(basename $$bench .py); echo "== $$name"; $(RUN) python -m tests.bench.$$name $(ARGS) || exit 1; done

images:  ## build all images and print their sizes (ROLES="ray triggers" for some of them)
	images/build.sh $(ROLES)

cluster: .venv/.synced  ## install the chart on the cluster of KUBECONFIG, run, kill head and worker; needs the images there
	$(RUN) pytest -m "cluster and not slow" --timeout=1500 $(ARGS)

cluster-full: .venv/.synced  ## everything on the cluster; long, by hand
	$(RUN) pytest -m cluster --timeout=3600 $(ARGS)
