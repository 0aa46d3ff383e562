# make help lists the targets. Everything is installed inside this folder: .venv/ and .tools/.

SHELL := /bin/sh
VENV := .venv
PYTHON_IN := $(VENV)/bin/python
LOCAL := $(VENV)/.stamp-local
DEV := $(VENV)/.stamp-dev
INPUTS := pyproject.toml tools/setup.sh tools/find-uv.sh tools/find-python.sh
CHECKED := schemas producer consumer cli tests bench grafana tools
CHECKED_HERE := $(wildcard $(CHECKED))
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check modules wheel format bench services-up services-down compile clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

$(LOCAL): requirements/local.txt $(INPUTS)
	@tools/setup.sh local

$(DEV): requirements/dev.txt $(INPUTS)
	@tools/setup.sh dev

setup: $(DEV)  ## make .venv with everything that development needs

demo: $(LOCAL)  ## train on real images, kill a rank, see that nothing is lost (KEEP=1 keeps the consumer up)
	@$(VENV)/bin/runwire demo $(if $(KEEP),--keep)

test: $(DEV)  ## all tests but the long ones; those that need a service are skipped without it
	@tools/test.sh "not long"

test-long: $(DEV)  ## the long tests
	@tools/test.sh long

check: $(DEV)  ## ruff, mypy, import-linter
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy $(CHECKED_HERE)
	@$(VENV)/bin/lint-imports --no-cache  # its cache keeps an import that pointed at a module before it existed

modules: $(DEV)  ## write the list of modules in ARCHITECTURE.md, and the tables of docs/guides/sql.md
	@$(PYTHON_IN) tools/modules.py
	@$(PYTHON_IN) tools/dictionary.py

wheel: $(DEV)  ## build sdist and wheel, try the wheel bare in an environment of its own
	@tools/check-wheel.sh

format: $(DEV)  ## rewrite the sources as ruff wants them
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

bench: $(DEV)  ## the measurements of bench/run.py, short, as tables
	@$(PYTHON_IN) bench/run.py

services-up: $(DEV)  ## start a real Kafka broker and Prometheus to play with
	@$(PYTHON_IN) tests/services/manage.py up

services-down: $(DEV)  ## stop them
	@$(PYTHON_IN) tests/services/manage.py down

compile: pyproject.toml  ## compile requirements/*.txt again (UPGRADE=1: to the newest versions)
	@tools/compile.sh $(if $(UPGRADE),--upgrade)

clean:  ## remove what was made here: environments, tools, caches
	rm -rf $(VENV) .tools .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find $(CHECKED_HERE) -name __pycache__ -type d -prune -exec rm -rf {} +
