# Every target makes ready what it needs, on a fresh machine too: see .ci/bootstrap.
# The one assumption is a Python of version 3.11 or newer.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint types wheel docs api bench soak clean

# Ours is the environment in .venv, not the caller's.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
# Without what was compiled, each of hundreds of daemons compiles the whole package.
unexport PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX

PYTHON_VENV := .venv/bin/python

# Folders of tests that take longer, or need more than Python.
SLOW := process interop netns sim browser slow
# Many of them wait for daemons, so that three at a time keep two processors busy.  They are
# begun in the order of tests/longest.txt; xdist's own begins with the files of many tests.
SLOW_FOLDERS = $(wildcard $(SLOW:%=tests/%))

# A worker that crashes is replaced, so that the others are heard; not without end.
PYTEST := $(PYTHON_VENV) -m pytest --max-worker-restart 2
# What test-all does more of than test does: those that are the same in both are left out where
# test has just passed.
FULLER := -m "hypothesis or fuller"
# Further arguments for pytest: make test PYTEST_ARGS="-k gossip"
PYTEST_ARGS ?=

help: ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

demo: ## show a mesh of nodes at work on this machine; CHECK=1 checks what it shows
	@.ci/bootstrap runtime
	@.venv/bin/meshkit demo $(if $(filter-out 0,$(CHECK)),--check)

test: ## the tests that need only Python: at most 10 minutes on 2 cores
	@.ci/bootstrap test
	@HYPOTHESIS_PROFILE=dev $(PYTEST) -n 2 --dist worksteal \
		$(SLOW_FOLDERS:%=--ignore=%) $(PYTEST_ARGS) tests

test-all: ## all tests, with more examples: at most 40 minutes; TESTED=1 after a test that passed
	@.ci/bootstrap test
	@.ci/tools
	@status=0; \
	HYPOTHESIS_PROFILE=ci $(PYTEST) -n 2 --dist worksteal \
		$(SLOW_FOLDERS:%=--ignore=%) $(if $(filter-out 0,$(TESTED)),$(FULLER)) $(PYTEST_ARGS) \
		tests || status=$$?; \
	$(if $(SLOW_FOLDERS),HYPOTHESIS_PROFILE=ci $(PYTEST) -n 3 --dist loadfile \
		--no-loadscope-reorder \
		$(PYTEST_ARGS) $(SLOW_FOLDERS) || status=$$?;) \
	exit $$status

lint: ## check style and formatting
	@.ci/bootstrap dev
	@$(PYTHON_VENV) -m ruff check .
	@$(PYTHON_VENV) -m ruff format --check .

types: ## check types
	@.ci/bootstrap dev
	@$(PYTHON_VENV) -m mypy

wheel: ## build the wheel into dist/
	@.ci/bootstrap test
	@$(PYTHON_VENV) .ci/build_wheel.py dist

docs: ## build the site with the API reference into docs/_build/html; CHECK=1 writes no reference
	@.ci/bootstrap dev
	@$(PYTHON_VENV) -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees \
		docs docs/_build/html
	@$(PYTHON_VENV) docs/api_reference.py \
		$(if $(filter-out 0,$(CHECK)),--check,docs/_build/html/reference)
	@echo docs/_build/html/index.html

api: ## write docs/api/*.yaml anew, from the operations of a node and of a relay
	@.ci/bootstrap test
	@$(PYTHON_VENV) docs/node_api.py

bench: ## measure, and print figures; BENCH_ARGS="--quick bulk rpc" for a short look at some
	@.ci/bootstrap test
	@.ci/tools bench || echo 'bench: not all there is to compare with could be installed' >&2
	@$(PYTHON_VENV) -m tests.bench $(BENCH_ARGS)

soak: ## property tests and simulations with ever new examples and seeds, for HOURS=1 hours or to the first failure
	@.ci/bootstrap test
	@.ci/soak $(or $(HOURS),1)

clean: ## remove what was built, but not .venv
	@rm -rf .build build dist docs/_build meshkit.egg-info .mypy_cache .ruff_cache .hypothesis .coverage
	@rm -rf _trial_temp _trial_temp.lock _trial_temp-*
	@find meshkit meshkit_plugins twisted tests examples -name __pycache__ -prune \
		-exec rm -rf {} +
	@find meshkit_plugins twisted -name dropin.cache -exec rm -f {} +
