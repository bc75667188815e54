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
HELM ?= helm
DIST ?= dist
ARCHIVES ?=
MEASURE ?=
KIND_CLUSTER ?= finetune
KIND_IMAGE ?=
QUICK := not slow and not cluster and not images and not e2e
IMAGE_LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-operator test-trainer sim check audit generate record models benchmark-operator benchmark-faults benchmark-cost benchmark-gpu soak test-slow test-cluster test-cluster-slow test-docs images push test-images kind e2e picture release clean

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

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

test: test-operator test-trainer  ## All tests that need no cluster, in minutes; with -j2 in half the time

test-operator: $(READY)  ## The part of them that runs no training
	$(BIN)/pytest -m "$(QUICK)" --ignore tests/trainer --ignore tests/local

test-trainer: $(READY)  ## The part of them that trains
	$(BIN)/pytest -m "$(QUICK)" tests/trainer tests/local

sim: $(READY)  ## Simulate the operator: N=10000 schedules of faults, or the one of SEED with its trace
	cd tests && ../$(BIN)/python -m sim $(if $(SEED),--seed $(SEED),--schedules $(or $(N),10000))

test-slow: $(READY)  ## The tests that take longer
	$(BIN)/pytest -m "slow and not cluster and not images and not e2e"

test-cluster: $(READY)  ## The tests on a real cluster; needs KUBECONFIG and kubectl
	@test -n "$$KUBECONFIG" || { echo "make test-cluster: set KUBECONFIG to a cluster whose namespaces you may create"; exit 2; }
	$(BIN)/pytest -m "cluster and not slow" tests/cluster tests/contract

test-cluster-slow: $(READY)  ## The tests on a real cluster that take longer
	@test -n "$$KUBECONFIG" || { echo "make test-cluster-slow: set KUBECONFIG to a cluster whose namespaces you may create"; exit 2; }
	$(BIN)/pytest -m "cluster and slow" tests/cluster

images: export DOCKER_BUILDKIT = 1
images:  ## Build both images with Docker; docs/images.md has the variables
	docker build --target operator --tag $(OPERATOR_IMAGE) $(IMAGE_LABELS) $(BUILD_FLAGS) .
	docker build --target trainer --tag $(TRAINER_IMAGE) $(IMAGE_LABELS) $(BUILD_FLAGS) .

push:  ## Push both images, which `make images` has built, to REGISTRY, such as registry.example/team
	@test -n "$(REGISTRY)" || { echo "make push: set REGISTRY to where the images go, such as registry.example/team"; exit 2; }
	for image in $(OPERATOR_IMAGE) $(TRAINER_IMAGE); do \
	  docker tag $$image $(REGISTRY)/$$image && docker push $(REGISTRY)/$$image || exit 2; done

test-images: $(READY)  ## The tests of what `make images` has built; needs Docker
	OPERATOR_IMAGE=$(OPERATOR_IMAGE) TRAINER_IMAGE=$(TRAINER_IMAGE) $(BIN)/pytest -m images

kind: images  ## A cluster of kind with both images and a folder for all nodes; see docs/quickstart.md
	mkdir -p $(WORKSPACE)/kind && chmod 777 $(WORKSPACE)/kind
	kind get clusters | grep -qx $(KIND_CLUSTER) || sed 's|workspace/kind|$(WORKSPACE)/kind|' tests/e2e/kind.yaml \
	  | kind create cluster --name $(KIND_CLUSTER) $(if $(KIND_IMAGE),--image $(KIND_IMAGE)) --wait 120s --config -
	kind load docker-image $(OPERATOR_IMAGE) $(TRAINER_IMAGE) --name $(KIND_CLUSTER) \
	  --nodes $(KIND_CLUSTER)-worker,$(KIND_CLUSTER)-worker2
	kubectl --context kind-$(KIND_CLUSTER) apply -f tests/e2e/storage.yaml

e2e: $(READY)  ## Everything on a kind cluster of its own; needs Docker, kind, kubectl and helm
	KIND_CLUSTER=$(KIND_CLUSTER)-e2e KIND_IMAGE=$(KIND_IMAGE) BUILD_FLAGS="$(BUILD_FLAGS)" \
	  $(BIN)/pytest --capture=no -m e2e tests/e2e

test-docs: $(READY)  ## The commands in README and docs
	$(BIN)/pytest tests/docs

check: $(READY)  ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: $(READY)  ## Write the definition, for kubectl and the chart, the chart's version, and the tables in docs
	$(BIN)/finetune crd > crds/finetunejobs.yaml
	cp crds/finetunejobs.yaml charts/finetune-operator/files/crds/
	sed -i 's/^version: .*/version: $(VERSION)/; s/^appVersion: .*/appVersion: "$(VERSION)"/' charts/finetune-operator/Chart.yaml
	$(BIN)/python tests/chart/values_table.py
	$(BIN)/python docs/generate_api.py
	$(BIN)/python docs/generate_status.py
	$(BIN)/python docs/generate_rooms.py
	$(BIN)/python docs/generate_licences.py

audit: $(READY)  ## Licences of the dependencies, and known vulnerabilities of their versions
	$(BIN)/python docs/generate_licences.py --check
	@report=$$($(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off 2>&1); \
	  code=$$?; echo "$$report" | grep -v '^WARNING'; \
	  case "$$report" in *"nown vulnerabilit"*) exit $$code;; esac; \
	  echo "make audit: the list of known vulnerabilities cannot be read here, so none was checked; try where it can"; exit 2

record: $(READY)  ## Record FineTuneJobs in every phase for the tests of GitOps; with KUBECONFIG, real ones too
	PYTHONPATH=tests $(BIN)/python -m gitops.record
	test -z "$$KUBECONFIG" || FINETUNE_RECORD=1 $(BIN)/pytest -m cluster tests/cluster/test_gitops.py -k every_phase

models: $(READY)  ## Train every architecture of transformers small and write docs/models.md; goes on where it was interrupted
	PYTHONPATH=tests $(BIN)/python -m models_table $(MEASURE)

benchmark-operator: $(READY)  ## What the operator costs, on fake nodes; benchmarks/operator/README.md has the variables
	@test -n "$$KUBECONFIG" || { echo "make benchmark-operator: set KUBECONFIG to a cluster with fake nodes"; exit 2; }
	$(BIN)/python benchmarks/operator/measure.py $(MEASURE)

benchmark-faults: $(READY)  ## The fault scoreboard, beside Hugging Face's Trainer; benchmarks/faults/README.md
	$(BIN)/python benchmarks/faults/measure.py $(MEASURE)

benchmark-cost: $(READY)  ## What surviving costs a step and a start; benchmarks/cost/README.md
	$(BIN)/python benchmarks/cost/measure.py $(MEASURE)

benchmark-gpu: $(READY)  ## What one GPU makes of the trainer, in nine minutes; benchmarks/gpu/README.md
	$(BIN)/python benchmarks/gpu/day.py $(MEASURE)

soak: $(READY)  ## Fifty random faults to one training on a real cluster; needs KUBECONFIG and kubectl
	@test -n "$$KUBECONFIG" || { echo "make soak: set KUBECONFIG to a cluster whose namespaces you may create"; exit 2; }
	$(BIN)/python benchmarks/soak/measure.py $(MEASURE)

picture: $(READY)  ## Record the README's picture: the contracts example in a terminal
	$(BIN)/python docs/pictures/record.py

release: $(READY)  ## Wheel, sources, chart, images and checksums into dist/; publishes nothing. ARCHIVES=1: images as files too
	@command -v $(HELM) >/dev/null || { echo "make release: $(HELM) is not there; install it (https://helm.sh) or set HELM to the program"; exit 2; }
	@docker version >/dev/null 2>&1 || { echo "make release: no Docker engine answers; start one (https://docs.docker.com/engine/install)"; exit 2; }
	rm -rf $(DIST) && mkdir -p $(DIST)
	$(BIN)/python -m hatchling build -d $(DIST)
	$(HELM) package charts/finetune-operator --destination $(DIST)
	$(MAKE) images
	for image in $(OPERATOR_IMAGE) $(TRAINER_IMAGE); do \
	  id=$$(docker image inspect --format '{{.Id}}' $$image) && echo "$$image $$id" >> $(DIST)/images.txt || exit 2; done
	$(if $(ARCHIVES),docker save --output $(DIST)/images-$(VERSION).tar $(OPERATOR_IMAGE) $(TRAINER_IMAGE))
	cd $(DIST) && sha256sum -- * > SHA256SUMS
	@echo "$(DIST):" && ls $(DIST)

clean:  ## Remove what make has made
	rm -rf $(VENV) $(WORKSPACE) $(DIST) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
