# `make demo` runs the main job, `make test` passes every check. Both set up .venv on first use.
PYTHON ?= python3
BIN    := .venv/bin
NATIVE := $(shell find native -name '*.cc' -o -name '*.h') CMakeLists.txt pyproject.toml
# An editable install knows the packages of the day it was made.
PACKAGES := $(shell find src -name __init__.py)

.PHONY: demo test lint format bench build clean
demo: build
	$(BIN)/bitwright demo

test: lint
	$(BIN)/python -m pytest

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: build
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

build: .venv/.built

.venv/.tools:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "scikit-build-core>=0.10" "nanobind>=2.4" "cmake>=3.26" ninja
	touch $@

.venv/.built: .venv/.tools $(NATIVE) $(PACKAGES)
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[train,bench,dev]"
	touch $@

clean:
	rm -rf .venv build
