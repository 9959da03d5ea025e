# Beamscribe: `make run-local` captions the sample archive, `make test` runs the tests.

PYTHON ?= python3
INPUT ?= samples
OUTPUT ?= captions
BIN := .venv/bin

.PHONY: run-local test lint setup constraints bundle clean

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

# Makes the bundled model again from a folder with Flickr8k: its images, captions.txt and the official splits.
FLICKR8K ?= flickr8k
PHOTOS := --images "$(FLICKR8K)/images" --captions "$(FLICKR8K)/captions.txt"

bundle: data/bundle
	@$(BIN)/beamscribe evaluate --bundle data/bundle $(PHOTOS) --split "$(FLICKR8K)/Flickr_8k.devImages.txt" \
		--train-split "$(FLICKR8K)/Flickr_8k.trainImages.txt"

data/bundle: data/train/dataset.json data/dev/dataset.json
	@$(BIN)/beamscribe train --recipe transformer --data data/train --validation data/dev --output $@

data/train/dataset.json: | setup
	@$(BIN)/beamscribe prepare --recipe transformer $(PHOTOS) --flip --output data/train \
		--split "$(FLICKR8K)/Flickr_8k.trainImages.txt"

data/dev/dataset.json: | setup
	@$(BIN)/beamscribe prepare --recipe transformer $(PHOTOS) --output data/dev \
		--split "$(FLICKR8K)/Flickr_8k.devImages.txt"

clean:
	rm -rf .venv build *.egg-info
