# Two commands in a fresh clone: `make demo` and `make test`. Everything is installed into .venv here, nowhere else.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first Python >= 3.11 that really runs (version managers leave stubs of versions that are not installed).
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CT ?= Resources/SampleData/c3n00249.nii.gz
OUT ?= demo_results
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint study screenshots clean

help:
	@echo "make demo [CT=file|folder|phantom] [OUT=folder]   run the main job on the sample, on your CT, or on a phantom"
	@echo "make test                                          run the tests"
	@echo "make lint                                          check style"
	@echo "make study NAME=speed [QUICK=1]                    run a benchmark of Testing/benchmarks"
	@echo "make screenshots                                   draw the pictures of Resources/Screenshots anew"
	@echo "make clean                                         remove .venv and results"

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv is missing: apt-get install python3-venv"; exit 2; }

# What the main job needs. The scene file is an extra: without it the demo still runs and says so.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing into .venv (once, a few minutes) ..."
	@$(PIP) --editable . 
	@$(PIP) --editable ".[scene]" || echo "slicer-core is not available for this Python: scene.mrb will be left out"
	@bash Testing/system_libraries.sh
	@touch $@

.venv/.test: .venv/.demo
	@echo "Installing what tests and training need ..."
	@$(PIP) "torch==2.13.0"
	@$(PIP) --editable ".[train,test]"
	@touch $@

demo: .venv/.demo
	@if [ "$(CT)" = phantom ]; then .venv/bin/bpr phantom --out .venv/phantom.nrrd && \
		.venv/bin/bpr run .venv/phantom.nrrd --out "$(OUT)"; \
	else .venv/bin/bpr run "$(CT)" --out "$(OUT)"; fi

test: .venv/.test
	@QT_QPA_PLATFORM=offscreen MPLBACKEND=Agg .venv/bin/python -m pytest -q -n 2 --dist loadfile $(ARGS)

lint: .venv/.test
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

study: .venv/.test
	@test -f "Testing/benchmarks/$(NAME).py" || { echo "There is no study '$(NAME)' in Testing/benchmarks."; exit 2; }
	@QUICK=$(QUICK) .venv/bin/python Testing/benchmarks/$(NAME).py $(ARGS)

screenshots: .venv/.test
	@.venv/bin/bpr run Resources/SampleData/c3n00249.nii.gz --out demo_results --no-scene
	@.venv/bin/python Testing/screenshots.py demo_results Resources/SampleData/c3n00249.nii.gz Resources/Screenshots

clean:
	rm -rf .venv demo_results
