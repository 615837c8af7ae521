# One word for each thing there is to do. Every target makes or refreshes the environment it needs by itself.
#   make demo PYTHON=python3.12        another interpreter
#   make test VENV=/tmp/venv           another place for the environment

PYTHON ?= python3
VENV   ?= .venv

override VENV := $(abspath $(VENV))
BIN    := $(VENV)/bin
METADATA := settings.ini setup.py pyproject.toml
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test coverage mutants docs slides lab export clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null \
	  || grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.library ## Train dense, static, SET, RigL, DSR and GGR on real handwriting; print a table, write a figure
	ggr_demo $(ARGS)

test: $(VENV)/.development ## Check everything: notebooks, properties, faults, pages in a browser (ARGS='-m core': the method alone)
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: $(VENV)/.development ## Say which lines of the library notebooks and tests together leave out
	python -m coverage erase
	COVERAGE_CORE=ctrace python -m coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)
	python -m coverage combine --quiet
	python -m coverage report

mutants: $(VENV)/.development ## Put classic mistakes into a copy of the library, one at a time: a test must notice each (ARGS='grow' of one module)
	python tests/mutants.py $(ARGS)

docs: $(VENV)/.development ## Build the documentation site into _docs/
	python site/build.py $(ARGS)

slides: $(VENV)/.development ## Write the slides of the hour into _slides/ (ARGS='nbs/04_topk.ipynb' of another page)
	python site/slides.py $(ARGS)

lab: $(VENV)/.development ## Open the notebooks in JupyterLab
	jupyter lab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

export: $(VENV)/.development ## After editing a notebook: write ggr_nb/, clean the notebooks, link their terms, refresh README.md
	nbdev_export
	python site/clean.py
	python site/glossary.py
	python site/readme.py

clean: ## Remove the environment and everything built
	rm -rf $(VENV) _docs _slides _proc build dist *.egg-info .pytest_cache .hypothesis .coverage*

# The stamps: an environment is made again when the requirements change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make ... PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make an environment in $(VENV). On Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.library: $(METADATA) | $(BIN)/python
	python -m pip install --quiet -e .
	@touch $@

$(VENV)/.development: $(METADATA) | $(BIN)/python
	python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.library
