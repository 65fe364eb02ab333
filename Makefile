# Everything a newcomer needs, from a machine that has Python 3.11 or newer and make. Each target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The version that the tests are run with. Where the package index serves it with CUDA, that is gigabytes: to do without
# them, put a CPU build into .venv first.
TORCH ?= torch==2.13.0
DEMO_LIMIT ?= 12

.PHONY: demo test lint types check clean

demo: $(VENV)/demo.stamp  ## real critiques and revisions by the embedded model
	$(BIN)/cai generate --constitution harmless.yaml --limit $(DEMO_LIMIT)

test: $(VENV)/dev.stamp  ## the default test suite; the embedded model's tests need its weights, which are fetched once
	$(BIN)/python -c 'from cai.models.weights import default_weights; default_weights()'
	$(BIN)/python -m pytest -q -n 2

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

check: lint types test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cai needs Python 3.11 or newer; name one: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[local]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) build dist
