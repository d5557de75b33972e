# demo: set up, then serve a real model on this machine, to zero and back     test: set up, then run the tests
# check: lint and types     docs: write the generated pages anew     bench: the races, side by side with peers
VENV ?= .venv
export VENV
PY := $(VENV)/bin/python

.PHONY: demo test test-slow check format docs bench setup clean

setup:
	@scripts/setup

demo: setup
	@$(VENV)/bin/ironloom demo

test: setup
	@$(PY) -m pytest -m "not slow and not browser" -n auto --dist loadgroup

test-slow: setup
	@$(PY) -m pytest -m "slow or browser"

check: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: setup
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

docs: setup
	@$(PY) scripts/docs.py

bench: setup
	@$(PY) bench/run.py

clean:
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
