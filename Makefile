# Each target sets up all it needs on a machine with Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CPU wheels of torch: plain `torch` may bring gigabytes of GPU libraries. With a GPU, install the
# build that fits it into .venv first.
TORCH ?= torch==2.13.0
OUT ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench wheel-check clean

help:
	@echo "make demo       synthetic radiographs, training, evidence, record, report (OUT=runs/demo)"
	@echo "make test       the tests that continuous integration runs"
	@echo "make test-all   these and the slow ones"
	@echo "make lint       format, lint and types"
	@echo "make bench NAME=step   a benchmark of benchmarks/, see docs/benchmarks.md"

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medproto needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(VENV)/.ready
	$(BIN)/medproto demo --out $(OUT)

# Files are shared out to two processes, of one thread each: the networks of the tests are small.
test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=90

test-all: $(VENV)/.ready-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready-dev
	$(BIN)/python benchmarks/$(subst -,_,$(NAME)).py $(ARGS)

wheel-check: $(VENV)/.ready-dev
	$(BIN)/python tests/wheel_check.py

clean:
	rm -rf build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache
