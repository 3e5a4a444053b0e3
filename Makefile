# Needs python3 >= 3.10 with venv, and make. Everything else is installed into $(VENV).
#   make demo      PYTHON=/path/to/python3.x chooses the Python, VENV=DIR the environment

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL := /bin/sh

PYTHON ?= $(shell sh contrib/pythons.sh default)
VENV ?= .venv
BIN := $(VENV)/bin
#: make test LINT= leaves the linters out (a second Python of the same sources)
LINT ?= lint
PYTEST_ARGS ?=
FS ?= local
# One more at once than there are cores, as most wait for something; but with many cores all would still share one disk.
PARALLEL := -n $(shell cores=$$(nproc); echo $$((cores < 3 ? cores + 1 : 4))) --dist=worksteal
PACKAGE := $(shell find hakuriver -name __pycache__ -prune -o -type f -print | LC_ALL=C sort)
SHARED := $(shell find docs/man docs/completions -type f | LC_ALL=C sort)
SOURCES := pyproject.toml README.md $(PACKAGE) $(SHARED)
# A removed module counts as a change, too. (Not by its directory's time: bytecode written beside sources changes that.)
NAMES = $(VENV)/.names-$(shell echo $(PACKAGE) | cksum | cut -d' ' -f1)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Whoever runs make may forbid bytecode; then every start of a command would compile anew.
COMPILE := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q $(VENV)/lib

.PHONY: help demo test test-share measure-share test-engines test-crash lint format docs bench clean

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: $(VENV)/.installed  ## a cluster of two nodes on a temporary share does real work, and is stopped
	@$(BIN)/python contrib/demo/demo.py

test: $(VENV)/.dev $(LINT)  ## all tests of this machine; tells what was left out
	@mkdir -p build
	$(BIN)/pytest $(PARALLEL) --junitxml=build/tests.xml $(PYTEST_ARGS)
	@$(BIN)/python contrib/left_out.py build/tests.xml

test-share: $(VENV)/.dev  ## the river on a shared filesystem: FS=nfs, gluster, moosefs, cifs, sshfs; as root
	@mkdir -p build
	SHARE_FS=$(FS) $(BIN)/pytest tests/share --junitxml=build/share-$(FS).xml $(PYTEST_ARGS)
	@$(BIN)/python contrib/left_out.py build/share-$(FS).xml

test-engines: $(VENV)/.dev  ## real Docker engines, real systemd on cgroup v1 and v2; as root, installs what it needs
	@mkdir -p build
	ENGINES=1 $(BIN)/pytest tests/engines --junitxml=build/engines.xml $(PYTEST_ARGS)
	@$(BIN)/python contrib/left_out.py build/engines.xml

test-crash: $(VENV)/.dev  ## every crash point of every kind (minutes)
	SIM_FULL=1 $(BIN)/pytest $(PARALLEL) tests/sim tests/unit/test_engine_crashes.py $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff put the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed  ## write anew what is made from the code: references, man pages, shell completion
	$(BIN)/python contrib/reference.py

measure-share: $(VENV)/.dev  ## latency and what idleness costs on a shared filesystem, FS=...; as root
	@$(BIN)/python tests/share/measure.py $(FS)

bench: $(VENV)/.installed  ## measure every speed beside its floor; BENCH_ROUNDS=1 BENCH_ONLY=submit,tick for some
	@$(BIN)/python bench/run.py --json build/bench.json

clean:  ## remove what make made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@echo "making $(VENV) with $(PYTHON)"
	@test -n "$(PYTHON)"
	@"$(PYTHON)" -m venv --clear $(VENV) || { echo "$(PYTHON) -m venv failed: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@touch $@

$(NAMES): $(VENV)/.made
	@rm -f $(VENV)/.names-*
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(NAMES) $(SOURCES)
	@echo "installing HakuRiver into $(VENV)"
	@$(PIP) install .
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(PIP) install ".[dev]"
	@$(COMPILE)
	@touch $@
