# Two commands are enough to begin: `make serve` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
COMPILED ?= .venv-compiled
ARGS   ?=
STAND_INS = explain measured patience urgency contract
BIN    := $(VENV)/bin
.DEFAULT_GOAL := help
# Where it is set, every process that a test starts would compile all libraries again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup serve compiled test test-compiled check fix bench bench-plain bench-decisions bench-overload soak sharding-memory bench-sharding limits schedules planted clients ollama-suite reference docs lock ci

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

# pip never runs outside a venv: Debian's own python3 refuses it (PEP 668). `--without-pip` because
# a bare Debian has pip but not the ensurepip module that `python3 -m venv` wants.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"SOLLOL needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 ...")'
	@echo "Making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --without-pip $(VENV)
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet 'uv>=0.13,<0.14'

# Progress of the first install (about 300 MB with llama.cpp and its model) is uv's own.
$(VENV)/.serve: requirements.txt pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(VENV) --require-hashes --requirement requirements.txt
	@$(BIN)/uv pip install --quiet --python $(VENV) --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(VENV) --require-hashes --requirement requirements-dev.txt
	@$(BIN)/uv pip install --quiet --python $(VENV) --no-deps --editable .
	@touch $@

setup: $(VENV)/.dev  ## Make .venv with everything a developer needs (pinned)

serve: $(VENV)/.serve  ## Start the gateway; ARGS="--node http://gpu1:11434" passes options
	@exec $(BIN)/sollol serve $(ARGS)

# Into an environment of its own, through an sdist in a temporary folder: compiled files beside the
# source would be run in its place after an edit.
compiled: $(BIN)/uv  ## Make .venv-compiled, whose sollol has its hot path in C (needs a C compiler)
	@rm -rf $(COMPILED)/dist
	HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(BIN)/uv build --python $(BIN)/python --build-constraints requirements-dev.txt --out-dir $(COMPILED)/dist .
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(COMPILED)
	$(BIN)/uv pip install --quiet --python $(COMPILED) --require-hashes --requirement requirements.txt
	$(BIN)/uv pip install --quiet --python $(COMPILED) --no-deps --reinstall $(COMPILED)/dist/*.whl
	@echo "Start it with $(COMPILED)/bin/sollol serve"

test: $(VENV)/.dev  ## Run every test
	$(BIN)/pytest --numprocesses 4 --dist worksteal $(ARGS)

# Where the source lies it would be run in place of the compiled package, so the tests go elsewhere.
# Files with stand-ins for compiled classes are left out: those take no subclass.
test-compiled: compiled $(VENV)/.dev  ## Run the tests over sockets with the hot path in C
	@rm -rf $(COMPILED)/checked && mkdir $(COMPILED)/checked
	@cp -r pyproject.toml docs tests $(COMPILED)/checked
	@$(BIN)/python -m zipfile -e $(COMPILED)/dist/*.whl $(COMPILED)/checked
	cd $(COMPILED)/checked && $(abspath $(BIN))/pytest --numprocesses 4 --dist worksteal tests/sim $(STAND_INS:%=--ignore tests/sim/test_%.py) $(ARGS)

check: $(VENV)/.dev  ## Format, lint, types, layers; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fix: $(VENV)/.dev  ## Format and apply safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: compiled  ## Measure the data plane, its hot path in C, against direct, nginx and an httpx proxy
	PYTHONSAFEPATH=1 $(COMPILED)/bin/python -m sollol.bench.data_plane $(ARGS)

bench-plain: $(VENV)/.dev  ## The same in plain Python, without a C compiler
	$(BIN)/python -m sollol.bench.data_plane $(ARGS)

limits: $(VENV)/.dev  ## Check what the scheduler must hold, on simulated nodes and a virtual clock
	$(BIN)/python -m sollol.bench.scheduler_limits $(ARGS)

sharding-memory: $(VENV)/.dev  ## Compare the memory that shard plans foresee with real llama.cpp programs
	$(BIN)/python -m sollol.bench.sharding_memory --write $(ARGS)

bench-sharding: $(VENV)/.dev  ## Measure models over several workers: memory, speed, loads, a network
	$(BIN)/python -m sollol.bench.sharding $(ARGS)

bench-decisions: $(VENV)/.dev  ## Measure what one decision of the scheduler costs
	$(BIN)/python -m sollol.bench.decision_cost $(ARGS)

bench-overload: $(VENV)/.dev  ## Measure ten times more requests than fit, and callers who only hold on
	$(BIN)/python -m sollol.bench.endurance.overload $(ARGS)

soak: $(VENV)/.dev  ## Send 100,000 requests with faults and aborts; does the gateway grow?
	$(BIN)/python -m sollol.bench.endurance.soak $(ARGS)

schedules: $(VENV)/.dev  ## Play random schedules of faults; ARGS="--schedules 20000"
	$(BIN)/python -m tests.deterministic $(ARGS)

planted: $(VENV)/.dev  ## Plant bugs one at a time and see whether the schedules show them
	$(BIN)/python -m tests.planted $(ARGS)

ollama-suite: $(VENV)/.dev
	PYTHON=$(PYTHON) $(BIN)/python -m tests.clients.ollama_suite

clients: ollama-suite  ## Other people's clients and their own tests, through a gateway (needs npm)
	$(BIN)/python -m tests.clients.javascript
	$(BIN)/python -m tests.clients.frameworks

reference: $(VENV)/.dev  ## Write the settings, command line and metrics pages anew
	$(BIN)/python -m sollol.cli.reference

docs: $(VENV)/.dev  ## Build the documentation; a warning is an error
	$(BIN)/zensical build --clean --strict

lock: $(BIN)/uv  ## Resolve again; rewrites the pinned requirements (uv.lock is git-ignored)
	$(BIN)/uv lock --upgrade
	$(BIN)/uv export --quiet --frozen --no-emit-project --no-header --no-annotate --no-default-groups --extra llama --extra mdns --output-file requirements.txt
	$(BIN)/uv export --quiet --frozen --no-emit-project --no-header --no-annotate --extra llama --extra mdns --output-file requirements-dev.txt

ci:  ## What CI runs: checks, docs, and the tests on Python 3.11 and 3.13
	.ci/run
