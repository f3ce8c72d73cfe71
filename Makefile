# `make help` explains every target. uv makes .venv; a target installs only what is not up to date.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
# Where torch comes from, for example TORCH_BACKEND=cpu or TORCH_BACKEND=cu128 (see README.md).
TORCH_BACKEND ?=
# The order of the tests, another in each run.
SEED := $(shell echo $$RANDOM)
BACKEND := $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND),)

.PHONY: help install demo test test-lowered format lint type type-pages docs site check bench bench-gpu bench-accuracy fuzz crash flip clean

help: ## Show what every target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# uv is looked for beside the Python in use, else installed into a small environment of its own.
$(VENV)/.installed: pyproject.toml constraints.txt
	@set -e; uv=$$(command -v uv || true); \
	if [ -z "$$uv" ]; then \
	  if [ ! -x $(VENV)-uv/bin/uv ]; then \
	    $(PYTHON) -m venv $(VENV)-uv && $(VENV)-uv/bin/python -m pip install --quiet uv; \
	  fi; uv=$(VENV)-uv/bin/uv; \
	fi; \
	[ -x $(BIN)/python ] || "$$uv" venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	UV_CONSTRAINT=constraints.txt "$$uv" pip install --quiet --python $(BIN)/python \
	  $(BACKEND) --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Make .venv and install trmml with its development tools

demo: $(VENV)/.installed ## Run the main job on generated scenes: runs/demo/report.html
	$(BIN)/trmml demo --out runs/demo

# A process per core, of one thread each: the models of the tests are too small to be shared.
# In random order: `make test SEED=N` repeats the one that the printed command names.
test: $(VENV)/.installed ## Run the tests and the examples in docstrings and README
	OMP_NUM_THREADS=1 $(RUN) pytest -m "not gpu" -n auto --maxprocesses 4 --dist loadfile --randomly-seed=$(SEED)

# As an old processor computes: no AVX in torch, MKL and oneDNN. Two threads sum in another order;
# they wait without spinning, or those of other tests stand still. Tests marked slow are of
# processes and of loading, not of numbers.
test-lowered: $(VENV)/.installed ## Run the numeric tests as on a lesser processor
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=2 \
	  OMP_WAIT_POLICY=passive \
	  $(RUN) pytest -m "not gpu and not slow" -n auto --maxprocesses 4 --dist loadfile --randomly-seed=$(SEED) \
	  tests/method tests/metrics tests/labels tests/baselines tests/training tests/encoders tests/features

format: $(VENV)/.installed ## Format the code
	$(RUN) ruff format . && $(RUN) ruff check --fix .

lint: $(VENV)/.installed ## Check format, style and which package imports which
	$(RUN) ruff format --check . && $(RUN) ruff check .
	$(BIN)/lint-imports --no-cache --no-logo

type: $(VENV)/.installed ## Check types strictly
	$(RUN) mypy

docs: $(VENV)/.installed ## Check that generated pages are fresh (fix: the same without --check)
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m benchmarks.accuracy.results_page --check

# In the last release that it was checked with; npm fetches it.
type-pages: ## Check the types of the pages' JavaScript; needs npm
	npm exec --yes --package typescript@7.0.2 -- tsc --project tests/server/tsconfig.json

# Its authors announce a successor on every run; the variable silences that.
site: $(VENV)/.installed ## Build the documentation site with the API reference: site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet --strict

check: lint type docs site test ## Everything that CI runs

bench: $(VENV)/.installed ## Speed, memory and size here, under 15 minutes on 2 cores: benchmarks/README.md
	$(BIN)/python -m benchmarks.speed.quick

bench-gpu: $(VENV)/.installed ## The same on a CUDA card; ends with an error without one
	$(BIN)/python -m benchmarks.speed.training --device cuda
	$(BIN)/python -m benchmarks.speed.tagging --device cuda

bench-accuracy: $(VENV)/.installed ## Test mAP of the methods on the drawn scenes, 3 seeds
	$(BIN)/python -m benchmarks.accuracy.bundled_zero_shot --out benchmarks/results/bundled_zero_shot.json
	$(BIN)/python -m benchmarks.accuracy.compare scenes --known 0.3 --seeds 0 1 2

# For example: make fuzz TARGET=coco SECONDS=600. TARGET=all gives each target its share of the time.
TARGET ?= all
fuzz: $(VENV)/.installed ## Give a reader damaged files for SECONDS, guided by coverage: tests/fuzz
	@$(BIN)/python -c "import atheris" 2>/dev/null || { \
	  uv=$$(command -v uv || echo $(VENV)-uv/bin/uv); \
	  "$$uv" pip install --quiet --python $(BIN)/python atheris; }
	OMP_NUM_THREADS=1 $(RUN) tests.fuzz $(TARGET) --seconds $(or $(SECONDS),3600)

# For example: make crash JOB=convert.
JOB ?= all
crash: $(VENV)/.installed ## Kill a command at each change of a file; the next run must finish it
	$(RUN) tests.crash $(JOB)

flip: $(VENV)/.installed ## Flip bits in the files of runs and stores; each must be found or harmless
	OMP_NUM_THREADS=1 $(RUN) tests.crash.flips

clean: ## Remove environments and caches
	rm -rf $(VENV) $(VENV)-uv site .mypy_cache .pytest_cache .ruff_cache .hypothesis
