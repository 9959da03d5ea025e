# Beamscribe: `make run-local` captions the sample archive, `make test` runs the tests.

PYTHON ?= python3
INPUT ?= samples
OUTPUT ?= captions
BIN := .venv/bin

.PHONY: run-local test lint setup constraints clean

run-local: setup
	@$(BIN)/beamscribe caption --input "$(INPUT)" --output "$(OUTPUT)"

test: setup
	@$(BIN)/python -m pytest

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

setup: .venv/installed

.venv/installed: setup.py constraints.txt
	@$(PYTHON) requirements.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,evaluate]'
	@touch $@

# Resolves the newest versions that setup.py allows, for every Python and platform that it supports.
constraints:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --universal --no-emit-package setuptools --python-version 3.11 \
		--all-extras --upgrade --output-file constraints.txt setup.py

clean:
	rm -rf .venv build *.egg-info
