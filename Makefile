# Everything a newcomer needs. Each target installs what it uses into .venv on first call.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test test-fast lint types bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)  ## every task on real photos with the embedded model; pictures in out/demo
	$(BIN)/python examples/demo.py --output out/demo

# Processes that test side by side, one file of tests at a time.
PROCESSES ?= 2

test: $(READY)  ## everything, a quarter of an hour on 2 cores
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

test-fast: $(READY)  ## leaves out what takes more than about three seconds
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile -m "not slow"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

bench: $(READY)  ## tables of speed and size in benchmarks/results
	$(BIN)/florence2 bench --peer --cold -o benchmarks/results/nano-float32
	$(BIN)/florence2 bench --random base --peer --cold --dtype float32 -o benchmarks/results/base-float32

clean:
	rm -rf $(VENV) out build dist
