# itemic: `make demo` and `make test` are all a newcomer needs.
SHELL := /bin/bash
DATA ?=
VENV := .venv
BIN := $(VENV)/bin
FIND_PYTHON := $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
PYTHON ?= $(FIND_PYTHON)

.PHONY: demo serve test test-slow lint docs peers clean

demo: $(VENV)/installed
	@$(BIN)/itemic demo $(DATA)

serve: $(VENV)/installed-serve
	@test -d runs/demo/ease || $(BIN)/itemic demo
	@$(BIN)/itemic serve runs/demo/ease runs/demo/itemknn runs/demo/lightgcn --data runs/demo/shop --store runs/demo/events.db

test: $(VENV)/installed-dev
	@$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/installed-dev
	@$(BIN)/pytest -m slow

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

peers:
	@bash benchmarks/peers/make.sh

$(VENV)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found. Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module. Install it (Debian: apt-get install python3-venv)."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml constraints.txt
	@echo "installing itemic into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/installed-serve: $(VENV)/python pyproject.toml constraints.txt
	@echo "installing itemic and its service into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[serve]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: $(VENV)/python pyproject.toml constraints.txt
	@echo "installing itemic and its development tools into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/installed $(VENV)/installed-serve

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
