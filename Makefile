# Every target is one command; the logic is in Python. `make help` lists them.

EXPERIMENT ?= quickstart
BACKEND ?= local
PYTHON ?= python3
UP_TEMPO = $(if $(TEMPO),--tempo $(TEMPO))
# Only what somebody said: a lab that is there keeps its backend.
CHOSEN_BACKEND = $(if $(filter command environment,$(firstword $(origin BACKEND))),--backend $(BACKEND))

ifeq ($(CONDA_DEFAULT_ENV),labkit)
VENV := $(CONDA_PREFIX)
else
VENV := .venv
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.labkit-installed

.DEFAULT_GOAL := help
.PHONY: help env tools up down status doctor lab experiment test test-again test-unit test-live bench lint format lock update verify clean

## help: show the targets
help:
	@sed -n 's/^## \([a-z-]*\): \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

## env: create the Python environment
env: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@echo "==> Python environment in $(VENV) (about 2 minutes, 1.5 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "labkit needs Python 3.11 or newer, $$($(PYTHON) --version 2>&1) is too old: set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

## tools: build or find the pinned programs (Kubernetes, KWOK, Prometheus, descheduler)
tools: env
	@$(BIN)/labkit tools

## up: bring up the lab (BACKEND=local|kind, TEMPO=1..15)
up: tools
	@$(BIN)/labkit up $(CHOSEN_BACKEND) $(UP_TEMPO)

## down: take the lab down
down: env
	@$(BIN)/labkit down $(CHOSEN_BACKEND)

## status: show every component's health
status: env
	@$(BIN)/labkit status $(CHOSEN_BACKEND)

## doctor: say what is missing on this machine and what helps
doctor: env
	@$(BIN)/labkit doctor

## lab: open JupyterLab on the notebooks
lab: tools
	@$(BIN)/jupyter lab --ip 127.0.0.1 notebooks

## experiment: run an experiment in batch (EXPERIMENT=quickstart)
experiment: tools
	@$(BIN)/labkit experiment experiments/$(EXPERIMENT).yaml $(CHOSEN_BACKEND) $(UP_TEMPO)

## test: run every test, the live loop included
test: tools
	@$(BIN)/python -m pytest --live

## test-again: run once more what failed in the last run of the tests
test-again: tools
	@$(BIN)/python -m pytest --live --last-failed --last-failed-no-failures none

## test-unit: run the quick tests that need no cluster, on every core (about a minute)
test-unit: env
	@$(BIN)/python -m pytest --numprocesses auto -m "not slow"

## test-live: run the tests on the real components (BACKEND=local|kind)
test-live: tools
	@$(BIN)/python -m pytest --live --backend $(BACKEND) -m live

## bench: measure speed, printed with this machine's description
bench: tools
	@$(BIN)/python -m benchmarks

## lint: check format, style, types, import directions and rules
lint: env
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

## format: format the code
format: env
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/nbstripout notebooks/*.ipynb

## lock: pin the Python dependencies anew
lock: env
	@$(BIN)/pip-compile --quiet --allow-unsafe --strip-extras --extra dev --generate-hashes --no-emit-index-url \
	  --no-emit-trusted-host --no-header -o requirements.txt pyproject.toml

## update: regenerate the files that are made from others
update: env
	@$(BIN)/python -m tools.generated --write

## verify: fail where a generated file is out of date
verify: env
	@$(BIN)/python -m tools.generated --check

## clean: remove caches of builds and tests, never results/
clean:
	@if [ -x $(BIN)/labkit ]; then $(BIN)/labkit tools --remove-build-cache; fi
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
