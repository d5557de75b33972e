# demo: set up, then serve a real model on this machine, to zero and back     test: set up, then run the tests
# test-slow: engines, faults, fuzzers, browser     test-train: what needs torch, in environments of its own
# test-kube: against a real Kubernetes control plane, built once from source
# image: the gateway's container image     image-lock: pin its Debian packages anew
# check: lint and types     docs: write the generated pages anew     bench: the races, side by side with peers
VENV ?= .venv
export VENV
PY := $(VENV)/bin/python

.PHONY: demo test test-slow test-train test-kube image image-lock check format docs bench setup clean

setup:
	@scripts/setup

demo: setup
	@$(VENV)/bin/ironloom demo

test: setup
	@$(PY) -m pytest -m "not slow and not browser and not kube" -n auto --dist loadgroup

test-slow: setup
	@$(PY) -m pytest -m "(slow or browser) and not (train or convert or vllm or kube)" --ignore=tests/train

test-train:
	@scripts/setup_convert
	@.venv-train/bin/python -m pytest -m train tests/serve/engines tests/workload/shapes tests/train --ignore-glob='*_on_gpu.py'
	@.venv-convert/bin/python -m pytest -m convert tests/serve/engines tests/train/test_tutorial_fine_tune.py

test-kube: setup
	@scripts/setup_kubernetes >/dev/null
	@$(PY) -m pytest -m kube tests/kube

image: setup
	@$(PY) -m scripts.build_image

image-lock: setup
	@$(PY) -m scripts.build_image --lock

check: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/mypy --explicit-package-bases scripts/build_image

format: setup
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

docs: setup
	@$(PY) scripts/docs.py

bench: setup
	@$(PY) bench/run.py

clean:
	@rm -rf $(VENV) .venv-train .venv-convert .mypy_cache .pytest_cache .ruff_cache .hypothesis
