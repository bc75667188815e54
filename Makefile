# finetune-operator. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKSPACE ?= workspace
.DEFAULT_GOAL := help
.PHONY: help setup demo test check generate test-slow test-cluster test-docs clean

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
	$(BIN)/pytest -m "not slow and not cluster"

test-slow: $(READY)  ## The tests that take longer
	$(BIN)/pytest -m "slow and not cluster"

test-cluster: $(READY)  ## The tests on a real cluster; needs KUBECONFIG and kubectl
	@test -n "$$KUBECONFIG" || { echo "make test-cluster: set KUBECONFIG to a cluster whose namespaces you may create"; exit 2; }
	$(BIN)/pytest -m cluster tests/cluster tests/contract

test-docs: $(READY)  ## The commands in README and docs
	$(BIN)/pytest tests/docs

check: $(READY)  ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: $(READY)  ## Write crds/ from the models
	$(BIN)/finetune crd > crds/finetunejobs.yaml

clean:  ## Remove what make has made
	rm -rf $(VENV) $(WORKSPACE) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
