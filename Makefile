# `make demo` and `make test` create what they need on a machine with Python 3.11 and g++.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
OUT ?= demo
BIN := $(VENV)/bin
PINS := requirements.txt
# Two at a time: much of the time of a test is that of starting a command.
PYTEST := -m pytest --numprocesses 2 --dist loadfile --durations 20

# Of `make study`.
STUDY ?= study

# Of `make chaos`, `make moves`, `make fuzz` and `make cluster`.
KILLS ?= 30
TERMS ?= 10
SEED ?= 0
MOVES ?= 12
SSH_KILLS ?= 6
PREEMPTIONS ?= 4

FILES ?= 300

.PHONY: demo study test test-base moves chaos fuzz cluster lint types contract wheel clean help

help:
	@echo "make demo       the whole chain on simulated scenes; results in $(OUT)"
	@echo "make study      how many labels pretraining saves, on simulated scenes; meant for an hour on two cores; docs/label-efficiency.md"
	@echo "make test       all tests"
	@echo "make test-base  the tests of the half without torch, less the slow ones, in an environment without it"
	@echo "make moves      trainings that go on with other ranks and in another ZeRO stage; SEED=0 MOVES=12"
	@echo "make chaos      a training that is killed and damaged 40 times must learn the same; SEED=0"
	@echo "make cluster    two nodes by ssh and by SLURM on this machine, killed and preempted; SEED=0 SSH_KILLS=6 PREEMPTIONS=4"
	@echo "make fuzz       damaged files of eleven kinds: each is read right or refused; SEED=0 FILES=300"
	@echo "make lint types contract wheel clean"

$(VENV)/.train: pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(PINS) --editable ".[train]"
	touch $@

$(VENV)/.all: pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(PINS) --editable ".[all]"
	touch $@ $(VENV)/.train

$(VENV)-base/.base: pyproject.toml $(PINS)
	$(PYTHON) -m venv $(VENV)-base
	$(VENV)-base/bin/pip install --quiet --constraint $(PINS) --editable . pytest pytest-timeout pytest-xdist hypothesis
	touch $@

demo: $(VENV)/.train
	$(BIN)/arcticseg demo --out $(OUT)

study: $(VENV)/.all
	$(BIN)/python benchmarks/label_efficiency.py --out $(STUDY)

test: $(VENV)/.all
	$(BIN)/python $(PYTEST)

test-base: $(VENV)-base/.base
	$(VENV)-base/bin/python $(PYTEST) -m "not slow" tests/unit

moves: $(VENV)/.all
	$(BIN)/python -m tests.moves --moves $(MOVES) --seed $(SEED)

chaos: $(VENV)/.all
	$(BIN)/python -m tests.chaos --kills $(KILLS) --terms $(TERMS) --seed $(SEED)

fuzz: $(VENV)/.all
	$(BIN)/python -m tests.fuzz --files $(FILES) --seed $(SEED)

cluster: $(VENV)/.all
	$(BIN)/python -m tests.cluster --kills $(SSH_KILLS) --preemptions $(PREEMPTIONS) --seed $(SEED)

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.all
	$(BIN)/mypy

contract: $(VENV)/.all
	$(BIN)/lint-imports

wheel: $(VENV)/.all
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) $(VENV)-base build dist *.egg-info
