# finetune-operator. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKSPACE ?= workspace
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
OPERATOR_IMAGE ?= finetune-operator:$(VERSION)
TRAINER_IMAGE ?= finetune-trainer:$(VERSION)
BUILD_FLAGS ?=
IMAGE_LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)
.DEFAULT_GOAL := help
.PHONY: help setup demo test check generate test-slow test-cluster test-docs images test-images clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; set PYTHON to a newer one"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trainer,dev]'
	touch $@

setup: $(READY)  ## Install everything into .venv

demo: $(READY)  ## Train the contracts example on this machine and show what it gained
	$(BIN)/python examples/contracts/make_data.py --workspace $(WORKSPACE)
	$(BIN)/finetune run examples/contracts/job.yaml --workspace $(WORKSPACE)

test: $(READY)  ## All tests that need no cluster, in minutes
	$(BIN)/pytest -m "not slow and not cluster and not images"

test-slow: $(READY)  ## The tests that take longer
	$(BIN)/pytest -m "slow and not cluster and not images"

test-cluster: $(READY)  ## The tests on a real cluster; needs KUBECONFIG and kubectl
	@test -n "$$KUBECONFIG" || { echo "make test-cluster: set KUBECONFIG to a cluster whose namespaces you may create"; exit 2; }
	$(BIN)/pytest -m cluster tests/cluster tests/contract

images: export DOCKER_BUILDKIT = 1
images:  ## Build both images with Docker; docs/images.md has the variables
	docker build --target operator --tag $(OPERATOR_IMAGE) $(IMAGE_LABELS) $(BUILD_FLAGS) .
	docker build --target trainer --tag $(TRAINER_IMAGE) $(IMAGE_LABELS) $(BUILD_FLAGS) .

test-images: $(READY)  ## The tests of what `make images` has built; needs Docker
	OPERATOR_IMAGE=$(OPERATOR_IMAGE) TRAINER_IMAGE=$(TRAINER_IMAGE) $(BIN)/pytest -m images

test-docs: $(READY)  ## The commands in README and docs
	$(BIN)/pytest tests/docs

check: $(READY)  ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: $(READY)  ## Write the definition, for kubectl and the chart, and the tables of values
	$(BIN)/finetune crd > crds/finetunejobs.yaml
	cp crds/finetunejobs.yaml charts/finetune-operator/files/crds/
	$(BIN)/python tests/chart/values_table.py

clean:  ## Remove what make has made
	rm -rf $(VENV) $(WORKSPACE) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
