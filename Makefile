# Everything a newcomer needs, from a machine that has Python 3.11 or newer and make. Each target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
# Where the package index serves it with CUDA, that is gigabytes: to do without them, put a CPU build of this version into
# .venv first.
TORCH ?= $(shell grep '^torch==' constraints.txt)
DEMO_LIMIT ?= 12
# Settings that a model of 135 million parameters can follow: short replies, one round, plain questions.
DEMO := examples/demo/prompts.jsonl --constitution examples/demo/constitution.yaml --templates examples/demo
DEMO += --rounds 1 --no-gate --temperature 0.3 --max-tokens 256 --system 'Answer in one short paragraph.'

.PHONY: demo test test-browser test-newest test-seeds constraints lint types check clean

demo: $(VENV)/demo.stamp  ## real critiques and revisions by the embedded model
	$(BIN)/cai generate $(DEMO) --limit $(DEMO_LIMIT)
	@echo "A model of 135 million parameters can shorten its own answers; it cannot judge whether they are right or harmful. Name a larger one with --model."

test: $(VENV)/dev.stamp  ## the default test suite; the embedded model's tests need its weights, which are fetched once
	$(call suite,$(VENV))

test-browser: $(VENV)/dev.stamp  ## pages in a real Chromium: the one installed, or that of CHROMIUM
	$(BIN)/python -m pytest -q -n 2 -m browser

test-newest: | $(NEWEST)/bin/python  ## the same suite with the newest version of every package but torch
	$(NEWEST)/bin/python -m pip install -q -U --upgrade-strategy eager $(TORCH) build -e '.[dev]'
	$(call suite,$(NEWEST))

test-seeds: $(VENV)/dev.stamp  ## the suite's properties with a thousand new examples each, which may find what nobody has seen
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m hypothesis --hypothesis-profile=new

constraints: test-newest  ## the newest versions, once they pass, become the tested ones
	{ grep '^#' constraints.txt; $(NEWEST)/bin/python -m pip list --format=freeze --exclude-editable --exclude pip | sed 's/+.*//'; } > constraints.new
	mv constraints.new constraints.txt

# Three workers keep two cores busy, since tests also wait for disks and servers: 7 minutes on two cores.
define suite
$(1)/bin/python -c 'from cai.weights.embedded import default_weights; default_weights()'
$(1)/bin/python -m pytest -q -n 3 --dist worksteal
endef

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

check: lint types test

$(BIN)/python $(NEWEST)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cai needs Python 3.11 or newer; name one: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(@:/bin/python=)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[local]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) $(NEWEST) build dist
