# Everything a newcomer types. `make help` lists it; `make demo` and `make test` set up by themselves.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Address of an index with CPU builds of torch (see pytorch.org/get-started), for machines on which
# `pip install torch` would bring the CUDA build: make setup TORCH_INDEX=https://...
TORCH_INDEX ?=
PIP_OPTIONS := --disable-pip-version-check --quiet --no-deps --no-compile \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
READY  := $(VENV)/.ready
DATA   := data/ml-100k/ml-100k.inter

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

# Without byte code every process would compile vLLM, torch and MLflow again: 40 s each time.
unexport PYTHONDONTWRITEBYTECODE
# Threads that wait by spinning slow each other down fivefold where cores are shared.
export OMP_WAIT_POLICY ?= PASSIVE
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup data demo test test-gpu kernels lint format compile bench serve clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | awk -F ':.*  ## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv with every dependency, pinned

$(READY): requirements/cpu.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing about 270 pinned packages into $(VENV), 2 to 4 minutes"
	@$(BIN)/pip install $(PIP_OPTIONS) -r requirements/cpu.lock
	@$(BIN)/pip install $(PIP_OPTIONS) --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

data: $(DATA)  ## fetch MovieLens-100K (2 MB, hash-checked)

$(DATA): | $(READY)
	$(BIN)/python -m genrec_model.data.fetch_movielens --to $(dir $@)

demo: $(READY) $(DATA)  ## the whole job here: data to a promoted canary, on MovieLens-100K
	$(BIN)/genrec demo --out runs/demo

test: $(READY) $(DATA)  ## every test that CI runs
	$(BIN)/python -m pytest

test-gpu: $(READY)  ## tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu

kernels: $(READY)  ## compile the CUTLASS kernels for Hopper; needs no GPU
	$(BIN)/python -m genrec_kernels.cutlass.build

lint: $(READY)  ## ruff, mypy (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## let ruff format and mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(READY)  ## the pipeline as Kubeflow YAML, in runs/
	$(BIN)/genrec compile --out runs/genrec-pipeline.yaml

bench: $(READY)  ## serving benchmark of the registered champion, appended to the records
	$(BIN)/genrec bench serve

serve: $(READY)  ## the champion on http://127.0.0.1:8080
	$(BIN)/genrec serve

clean:  ## remove runs and caches (not .venv, not data)
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
