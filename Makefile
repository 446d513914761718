# Targets for developers and the CI. Each target sets up what it needs; the prerequisites are Python 3.11
# or newer and make. Clusters and images need Linux, root and some Debian packages, which `make machine`
# installs if apt-get is available.

PYTHON ?= $(firstword $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p; done))
ifeq ($(PYTHON),)
$(error Python 3.11 or newer is required; set PYTHON=path to select an interpreter)
endif
ifneq ($(wildcard tests/cluster/binaries.py),)
CLUSTER_BIN := $(shell $(PYTHON) -c 'from tests.cluster.binaries import bin_dir; print(bin_dir())')
endif
# The tools of the environment and of the cluster (helm, kubectl, kubeconform) take precedence.
export PATH := $(CURDIR)/.venv/bin:$(CLUSTER_BIN):$(PATH)

VENV := .venv/.complete
BIN := .venv/bin
TESTS ?=
NODES ?= 2
EXTRAS := service operator dev
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"
# The products that bench.rivals measures; Oban requires a newer Python.
PEERS := $(wildcard bench/rivals/requirements/*.in)
COMPILE_PEER = $(if $(findstring oban,$(1)),$(subst 3.11,3.12,$(COMPILE)),$(COMPILE))

.PHONY: help run test test-lowest check chaos demo generate lock images machine cluster-up cluster-down clean \
	sast dependency-scan image scan sbom push sign kind-test test-services
.DEFAULT_GOAL := help

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

run: $(VENV)  ## Start the service with its own PostgreSQL; PORT=8123 and DATA=folder set the port and the folder
	@$(BIN)/task-service dev $(if $(PORT),--port $(PORT)) $(if $(DATA),--data '$(DATA)')

test: $(VENV) machine  ## Run all tests; TESTS=paths selects some, REQUIRE_CLUSTER=1 makes skipped tests fail
	@$(if $(TESTS),$(BIN)/python -m pytest $(TESTS),scripts/test)

test-lowest: $(VENV)  ## Run the unit tests with the lowest versions that pyproject.toml allows
	@scripts/test-lowest $(PYTHON)

check: $(VENV)  ## Check lint, types, layers, migrations, charts and generated files (takes seconds)
	@scripts/check

chaos: $(VENV) machine  ## Inject faults into real processes while tasks run, then check the database; SEED=, FAULTS=200, TASKS=100000
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) $(if $(TASKS),--tasks $(TASKS))

demo: $(VENV) machine  ## Demonstrate the service and the operator on a cluster with two nodes
	@$(BIN)/python -m tests.e2e.demo

generate: $(VENV)  ## Write the generated files: CRD, values schema, reference pages, .env.example
	@$(BIN)/python scripts/generate.py

lock: $(VENV)  ## Update the locks in requirements/
	$(foreach extra,$(EXTRAS),$(BIN)/$(COMPILE) --extra $(extra) -o requirements/$(extra).txt pyproject.toml &&) true
	$(foreach name,build go tools,$(BIN)/$(COMPILE) -c requirements/dev.txt -o requirements/$(name).txt requirements/$(name).in &&) true
	$(foreach peer,$(PEERS),$(BIN)/$(call COMPILE_PEER,$(peer)) -o $(peer:.in=.txt) $(peer) &&) true

images: machine  ## Build the images and print their archives
	@$(PYTHON) -m tests.support.images build

cluster-up: machine images  ## Start a cluster with NODES=2 nodes and the images; CLUSTER=0..9 selects its number
	@$(PYTHON) -m tests.cluster up --nodes $(NODES) --load $$($(PYTHON) -m tests.support.images build)
	@echo 'eval "$$($(PYTHON) -m tests.cluster env)" points kubectl and helm at it'

cluster-down:  ## Stop that cluster and remove everything it created
	@$(PYTHON) -m tests.cluster down

sast: $(VENV)  ## Check the code for security problems (bandit)
	@PYTHON=$(PYTHON) scripts/pipeline sast

dependency-scan: $(VENV)  ## Check the locked dependencies for known vulnerabilities (pip-audit)
	@PYTHON=$(PYTHON) scripts/pipeline dependency-scan

image:  ## Build both images with this commit's tags (docker or podman); REGISTRY=host/path prefixes them
	@PYTHON=$(PYTHON) scripts/pipeline image

scan:  ## Scan the images for known vulnerabilities (trivy)
	@PYTHON=$(PYTHON) scripts/pipeline scan

sbom:  ## Write the SBOMs of the images to build/, as CycloneDX (syft)
	@PYTHON=$(PYTHON) scripts/pipeline sbom

push:  ## Push the images and charts to REGISTRY
	@PYTHON=$(PYTHON) scripts/pipeline push

sign:  ## Sign the pushed images and charts and attest the SBOMs (cosign)
	@PYTHON=$(PYTHON) scripts/pipeline sign

kind-test:  ## Install both charts on the kind cluster KIND_CLUSTER=kind and test them
	@PYTHON=$(PYTHON) scripts/pipeline kind-test

test-services: $(VENV)  ## Run the conformance suites on the servers of DATABASE_URL and REDIS_URL
	@PYTHON=$(PYTHON) scripts/pipeline test-services

machine:
	@scripts/prepare-machine

clean: cluster-down  ## Remove the environment, caches and the cluster; keep the data of `make run`
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything is installed from the hashed locks, including the build backend.
$(VENV): requirements/dev.txt requirements/tools.txt requirements/build.txt pyproject.toml
	@scripts/make-environment $(PYTHON)
	@touch $@
