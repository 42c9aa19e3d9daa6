# Every target sets up what it needs by itself; Python (3.11 or newer) and make are enough.
#
#   make demo PYTHON=/path/to/python   use this interpreter
#   make test VENV=/path/to/venv       keep the virtual environment there
#   make test TESTS=tests/test_x.py    run only these tests
#   make bench BENCH="--only pairs"    measure only this

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
# Two installations at once into one environment would break it.
.NOTPARALLEL:
SHELL := /bin/sh

VENV ?= .venv
TESTS ?=
BENCH ?=
SOAK ?= 3600

# The first interpreter that runs, is new enough and can make virtual environments. Being on the PATH proves none of
# that, so each one is tried.
usable = $(1) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	if $(call usable,$$python); then echo $$python; break; fi; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
RUN_TESTS = $(BIN)/python -m pytest
# Two workers, each with a server of its own: half of a run is waiting.
WORKERS ?= 2
# A scenario mostly waits for what leakguard is to notice.
ZOO_WORKERS ?= 4
GUARDED = tests/doctor tests/html tests/test_cli_report.py tests/test_postgres_server.py

.PHONY: help demo test own zoo soak check format lint types layers docs bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed-demo ## Watch leaks being found in a small shop on a real PostgreSQL
	@$(BIN)/leakguard demo

test: $(VENV)/.installed-test ## Run the tests
	$(RUN_TESTS) -q -n $(WORKERS) -m "not zoo" $(TESTS)

own: $(VENV)/.installed-test ## Run the tests that do not install leakguard themselves under its own pytest plugin
	$(RUN_TESTS) -q -n $(WORKERS) --leakguard $(GUARDED)

zoo: $(VENV)/.installed-test ## Run the programs of tests/scenarios, leaking and clean
	$(RUN_TESTS) -q -n $(ZOO_WORKERS) -m zoo tests/test_scenarios.py

soak: $(VENV)/.installed-test ## Healthy traffic for an hour (SOAK=seconds), in which nothing may be reported
	LEAKGUARD_SOAK_SECONDS=$(SOAK) $(RUN_TESTS) -q tests/soak

check: lint types layers docs zoo own test ## Run everything that must pass: format, lint, types, layers, docs, tests

bench: $(VENV)/.installed-bench ## Measure what leakguard costs, and draw it
	$(BIN)/python benchmarks/run.py --json build/bench/figures.json --plots build/bench $(BENCH)

docs: $(VENV)/.installed-dev ## Build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

format: $(VENV)/.installed-dev ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(VENV)/.installed-dev
	$(BIN)/mypy

layers: $(VENV)/.installed-test
	$(RUN_TESTS) -q tests/test_layers.py

clean: ## Remove everything that the targets made
	rm -rf $(VENV) build dist docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp an extra of pyproject.toml: installed again when that file changes.
$(VENV)/.installed-%: pyproject.toml $(BIN)/python
	@echo "installing leakguard[$*] into $(VENV)"
	@$(PIP) --editable '.[$*]'
	@touch $@

$(BIN)/python:
	@$(call usable,$(or $(PYTHON),false)) || { \
		echo "make: no Python 3.11 or newer with venv and ensurepip found; say which: make PYTHON=/path/to/python" >&2; \
		exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
