# Everything that a fresh machine needs: `make run`, `make test`. Only Python 3.11+, pip, make and gcc are presumed.
PYTHON ?= python3
VENV ?= .venv
ARGS ?= task=molpeg
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test test-all report lint types check clean

run: $(STAMP)  ## one experiment: make run ARGS="task=molpeg prune=0.8"
	$(BIN)/run $(ARGS)

test: $(STAMP)  ## what must hold before anything lands; two processes of one thread each
	$(BIN)/pytest -m 'not slow' -n 2 --dist worksteal

test-all: $(STAMP)  ## all of it: every method on every embedded dataset, real launchers
	$(BIN)/pip install -q -c constraints.txt -e '.[submitit]'
	$(BIN)/pytest -n 2 --dist worksteal

report: $(STAMP)  ## the results as a site: make report RESULTS=results
	$(BIN)/decathlon report results_dir=$(or $(RESULTS),results) --out report

lint: $(STAMP)
	$(BIN)/ruff check src tests scripts
	$(BIN)/ruff format --check src tests scripts

types: $(STAMP)
	$(BIN)/mypy

check: lint types test  ## what CI runs

clean:
	rm -rf $(VENV)

# torch first and alone: its pinned version must be there before anything that would choose another.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,smollm,peers]'
	touch $@
