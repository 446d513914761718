# What a developer and the CI run. Each target sets itself up; it needs Python 3.11 or newer and make.
# Clusters and images need Linux, root and some Debian packages, which `make machine` installs where apt-get is there.

PYTHON ?= $(firstword $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p; done))
ifeq ($(PYTHON),)
$(error Python 3.11 or newer is needed; name one with PYTHON=path)
endif
ifneq ($(wildcard tests/cluster/binaries.py),)
CLUSTER_BIN := $(shell $(PYTHON) -c 'from tests.cluster.binaries import bin_dir; print(bin_dir())')
endif
# Tools of the environment and of the cluster (helm, kubectl, kubeconform) before those of the machine.
export PATH := $(CURDIR)/.venv/bin:$(CLUSTER_BIN):$(PATH)

VENV := .venv/.complete
BIN := .venv/bin
TESTS ?=
NODES ?= 2
EXTRAS := service operator dev
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"
# What the bench compares with; Oban wants a newer Python than we do.
PEERS := $(wildcard bench/rivals/requirements/*.in)
COMPILE_PEER = $(if $(findstring oban,$(1)),$(subst 3.11,3.12,$(COMPILE)),$(COMPILE))

.PHONY: help run test check chaos demo generate lock images machine cluster-up cluster-down clean \
	sast dependency-scan image scan sbom push sign kind-test test-services
.DEFAULT_GOAL := help

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

run: $(VENV)  ## Start the service with its own PostgreSQL; PORT=8123 and DATA=folder choose where
	@$(BIN)/task-service dev $(if $(PORT),--port $(PORT)) $(if $(DATA),--data '$(DATA)')

test: $(VENV) machine  ## Run all tests; TESTS=paths chooses some, REQUIRE_CLUSTER=1 leaves none out
	@$(if $(TESTS),$(BIN)/python -m pytest $(TESTS),scripts/test)

check: $(VENV)  ## Lint, types, layers, migrations, charts, stale generated files: seconds
	@scripts/check

chaos: $(VENV) machine  ## Kill, stop and cut off real processes while tasks run, then judge; SEED=, FAULTS=200, TASKS=100000
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) $(if $(TASKS),--tasks $(TASKS))

demo: $(VENV) machine  ## Show the main job on a cluster of two nodes
	@$(BIN)/python -m tests.e2e.demo

generate: $(VENV)  ## Write the generated files: CRD, values schema, reference pages, .env.example
	@$(BIN)/python scripts/generate.py

lock: $(VENV)  ## Renew the locks in requirements/
	$(foreach extra,$(EXTRAS),$(BIN)/$(COMPILE) --extra $(extra) -o requirements/$(extra).txt pyproject.toml &&) true
	$(foreach name,build go tools,$(BIN)/$(COMPILE) -c requirements/dev.txt -o requirements/$(name).txt requirements/$(name).in &&) true
	$(foreach peer,$(PEERS),$(BIN)/$(call COMPILE_PEER,$(peer)) -o $(peer:.in=.txt) $(peer) &&) true

images: machine  ## Build the images and print their archives
	@$(PYTHON) -m tests.support.images build

cluster-up: machine images  ## Start a cluster with NODES=2 nodes and the images; CLUSTER=0..9 chooses which
	@$(PYTHON) -m tests.cluster up --nodes $(NODES) --load $$($(PYTHON) -m tests.support.images build)
	@echo 'eval "$$($(PYTHON) -m tests.cluster env)" points kubectl and helm at it'

cluster-down:  ## Stop that cluster and remove every trace of it
	@$(PYTHON) -m tests.cluster down

sast: $(VENV)  ## Static analysis of the code for security (bandit)
	@PYTHON=$(PYTHON) scripts/pipeline sast

dependency-scan: $(VENV)  ## Known faults of the locked dependencies (pip-audit)
	@PYTHON=$(PYTHON) scripts/pipeline dependency-scan

image:  ## Build both images with this commit's tags (docker or podman); REGISTRY=host/path prefixes them
	@PYTHON=$(PYTHON) scripts/pipeline image

scan:  ## Known faults of those images (trivy)
	@PYTHON=$(PYTHON) scripts/pipeline scan

sbom:  ## What is in them, as CycloneDX, into build/ (syft)
	@PYTHON=$(PYTHON) scripts/pipeline sbom

push:  ## Push images and charts to REGISTRY
	@PYTHON=$(PYTHON) scripts/pipeline push

sign:  ## Sign what was pushed and attest the SBOMs (cosign)
	@PYTHON=$(PYTHON) scripts/pipeline sign

kind-test:  ## Install both charts with those images on the kind cluster KIND_CLUSTER=kind, and test them
	@PYTHON=$(PYTHON) scripts/pipeline kind-test

test-services: $(VENV)  ## Conformance suites on the servers of DATABASE_URL and REDIS_URL
	@PYTHON=$(PYTHON) scripts/pipeline test-services

machine:
	@scripts/prepare-machine

clean: cluster-down  ## Remove the environment, caches and the cluster; data of `make run` stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything comes from the hashed locks, the build backend too.
$(VENV): requirements/dev.txt requirements/tools.txt requirements/build.txt pyproject.toml
	@scripts/make-environment $(PYTHON)
	@touch $@
