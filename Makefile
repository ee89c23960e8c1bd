# Everything here sets itself up: the first target that needs it makes .venv and build/stubs.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed build/stubs/.made
# A container that shares this folder cannot run its Python, and Python may be gone: install again.
$(shell test -x .venv/bin/python || rm -f .venv/.installed)

# These reach the command through the environment as they were typed. On a command line, make would
# expand a $ in them, and the shell would take the quotes. (Two lines: macOS has make 3.81.)
SETTINGS := MODEL LABELS MODEL_NAME PREPROCESSING RESIZE SIZE SIGNATURE OUTPUT SCORES CUSTOM_OBJECTS TRUSTED
$(foreach name,$(SETTINGS) DEST,$(eval override $(name) := $$(value $(name))))
export $(SETTINGS) DEST
GATEWAY_PORT ?= 9696
ADMIN_PORT ?= 9697
MODEL_PORT ?= 8500
# What else is set on the command line is a mistake, as in MODLE=…
UNKNOWN = $(filter-out $(SETTINGS) DEST PYTHON BIN %_PORT, \
  $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
SAY_UNKNOWN = @$(if $(UNKNOWN),echo "make: unknown $(UNKNOWN): the settings are $(SETTINGS)"; exit 1)

# Most tests wait for servers, so more workers than processors are right. Tests of one file, and
# cells of one notebook, stay together. The longest come first, so that none is left for the end.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest
PARALLEL = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# A cell that builds images downloads TensorFlow first.
NBVAL := -p nbval --nbval --nbval-current-env --nbval-cell-timeout 1000

# The first lesson makes the model that the others use. Two lessons need thousands of photos:
# tests/integration/test_train_notebook.py runs them with a few pictures.
FIRST_LESSON := $(wildcard notebooks/01-*.ipynb)
LONG_LESSONS := $(wildcard $(addprefix notebooks/,in-depth/load-* in-depth/is-* in-depth/over* in-depth/run-* in-depth/roll-*))
LESSONS := $(LONG_LESSONS) $(filter-out $(LONG_LESSONS) $(FIRST_LESSON) \
  $(addprefix notebooks/in-depth/,train-% judge-%), $(wildcard notebooks/*.ipynb notebooks/in-depth/*.ipynb))
LONG_TESTS := $(wildcard $(addprefix tests/integration/test_,train* own* chains* containers* site*))
INTEGRATION := $(LONG_TESTS) $(filter-out $(LONG_TESTS),$(wildcard tests/integration/test_*.py))

# They come last, two files at a time: those of the first, test_faults.py, wait most of their time.
TIMED = $(shell grep -l mark.timed tests/integration/test_*.py)

export PYTHONUNBUFFERED = 1

.PHONY: run project test test-unit test-notebooks test-integration test-faults test-openapi soak bench kind-test podman-test contract lab notebooks export docs lint format lock help clean

# exec, because make would report that Ctrl-C ends a shell.
run: $(READY)  ## convert MODEL, start model server and gateway, show an answer
	$(SAY_UNKNOWN)
	@exec $(BIN)/python -m tutorial.run --gateway-port "$(GATEWAY_PORT)" \
	  --admin-port "$(ADMIN_PORT)" --model-port "$(MODEL_PORT)"

project: $(READY)  ## write DEST, a repository of your own that serves MODEL
	$(SAY_UNKNOWN)
	@$(BIN)/python -m tutorial.project

test:  ## everything: lint, unit tests, lessons, integration tests
	@$(MAKE) --no-print-directory --keep-going lint test-unit test-notebooks test-integration

test-unit: $(READY)  ## what needs no TensorFlow, a minute
	@$(PYTEST) $(PARALLEL) tests/unit

test-notebooks: $(READY)  ## run the lessons and compare their stored outputs
	@$(PYTEST) $(NBVAL) $(FIRST_LESSON)
	@$(PYTEST) $(NBVAL) $(PARALLEL) $(LESSONS)

test-integration: $(READY)  ## servers, conversions, the page, and the whole path with several models
	@$(PYTEST) $(PARALLEL) -m "not timed" $(INTEGRATION)
	@$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder -m timed $(TIMED)

test-faults: $(READY)  ## dead models, overload, slow clients, for as long as the figures ask
	@FAULTS=full $(PYTEST) -s tests/integration/test_faults.py \
	  tests/integration/test_standing.py

soak: $(READY)  ## half an hour of good and bad requests: nothing may grow
	@FAULTS=full $(PYTEST) -s tests/integration/test_soak.py

test-openapi: $(READY)  ## 500 requests of every kind that the OpenAPI document knows, and does not
	@OPENAPI_EXAMPLES=500 $(PYTEST) -s tests/integration/test_openapi.py

bench: $(READY)  ## measure everything again, say what changed, draw the README's plots: half an hour
	@$(BIN)/python -m benchmarks $(if $(PHOTOS),--photos "$(PHOTOS)")

kind-test: $(READY)  ## both tiers in a kind cluster: scaling and rollouts under load
	@$(BIN)/python -m tests.cluster.kind

podman-test: $(READY)  ## build both images, and run the pods of the manifests under Podman
	@.ci/images
	@$(PYTEST) tests/integration/test_podman.py

contract: $(READY)  ## take the contract of models/MODEL_NAME into the manifests
	@$(BIN)/python -m tutorial.kubernetes "$(or $(MODEL_NAME),starter)"

lab: $(READY)  ## JupyterLab in notebooks/
	@cd notebooks && ../$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: $(READY)  ## all lessons in order through papermill, copies under build/
	@$(BIN)/python -m tutorial.notebooks

export: .venv/.installed  ## write gateway/*.py from the notebooks
	@$(BIN)/python -m tutorial.export

docs: $(READY)  ## the website, into build/site
	@$(BIN)/sphinx-build -c docs -d build/doctrees -W --keep-going --quiet . build/site
	@echo "Open build/site/index.html"

lint: .venv/.installed  ## ruff, and stripped notebooks
	@$(BIN)/ruff check && $(BIN)/ruff format --check
	@$(BIN)/nbstripout --verify --keep-output --keep-count --keep-id notebooks/*.ipynb notebooks/*/*.ipynb

format: .venv/.installed  ## let ruff fix what it can
	@$(BIN)/ruff check --fix && $(BIN)/ruff format

LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet
SUBLOCK = $(LOCK) --no-annotate --constraint requirements.txt

lock: .venv/.installed  ## renew requirements.txt from requirements.in, then the images' from it
	@$(LOCK) --upgrade requirements.in -o requirements.txt
	@$(SUBLOCK) --no-deps model_server/requirements.in -o model_server/requirements.txt
	@$(SUBLOCK) --no-deps gateway/requirements-stubs.in -o gateway/requirements-stubs.txt
	@$(SUBLOCK) gateway/requirements.in -o gateway/requirements.txt

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

clean:  ## remove what the targets made, models included
	rm -rf .venv build models

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv --clear .venv || \
	  { echo "Python's venv module is missing: on Debian, apt install python3-venv"; exit 1; }
	@echo "Installing the pinned packages into .venv (with TensorFlow: a few minutes)"
	@while sleep 15 && kill -0 $$$$ 2> /dev/null; do printf .; done & \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

build/stubs/.made: .venv/.installed tutorial/build_stubs.py
	@$(BIN)/python -m tutorial.build_stubs build/stubs
	@touch $@
