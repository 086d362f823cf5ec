# `make demo` runs the main job, `make test` passes every check, `make sanitize` looks for stray memory accesses in the
# kernels. All set up .venv on first use.
PYTHON ?= python3
BIN    := .venv/bin
NATIVE := $(shell find native -name '*.cc' -o -name '*.h') CMakeLists.txt pyproject.toml
# An editable install knows the packages of the day it was made.
PACKAGES := $(shell find src -name __init__.py)

.PHONY: demo test sanitize lint format bench build clean
demo: build
	$(BIN)/bitwright demo

test: lint
	$(BIN)/python -m pytest

# Every native operation on random shapes, at every instruction set of this machine, in an extension built with the
# sanitizers. Their library must be loaded before Python, whose own leaks are none of our business; -S keeps the
# installed extension out. SHAPES=1000 tries fewer. Building takes about three minutes of one core, as the checks are
# calls. Masked, gathered and tile accesses, which no sanitizer sees, meet the guard pages of native/memory.h.
SANITIZED := build/sanitize
SHAPES    := 10000
SITE       = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
sanitize: build
	$(BIN)/cmake -S . -B $(SANITIZED) -G Ninja -DBITWRIGHT_SANITIZE=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja
	$(BIN)/cmake --build $(SANITIZED)
	rm -rf $(SANITIZED)/src && mkdir $(SANITIZED)/src
	cp -r src/bitwright $(SANITIZED)/src/ && rm -f $(SANITIZED)/src/bitwright/_native*.so
	cp $(SANITIZED)/_native*.so $(SANITIZED)/src/bitwright/
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$(SANITIZED)/src:$(SITE) \
	  $(BIN)/python -S benchmarks/fuzz_kernels.py $(SHAPES)

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
