# Everything runs from .venv, which `make setup` builds from requirements.lock. ARGS goes to the command:
#   make test ARGS="-k embedded -x"

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
VERSIONS := .venv-versions
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
SOURCES := $(wildcard orchestrator workers benchmarks chaos tests config/*.py)
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input

# Hundreds of processes are started from here; each would compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# A virtual environment does not survive being copied or losing its interpreter, so the stamp names the
# directory it was made in. Without a good stamp, setup starts again from nothing.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): rebuild
endif
ifeq ($(wildcard $(BIN)/python),)
$(STAMP): rebuild
endif

.PHONY: help setup demo test test-slow explore test-versions coverage lint lint-types lint-others docker-test chaos soak bench-transport bench-monitors bench-coordination bench-dead-letters bench-import bench-calls bench-workflows bench-schedules bench-send bench-supervise format clean rebuild
rebuild:

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## Build .venv with every dependency, pinned

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		found="$$($(PYTHON) --version 2>/dev/null)"; \
		echo "celery-orchestrator needs Python 3.11 or newer; '$(PYTHON)' is $${found:-not there}" \
			"(another: make PYTHON=python3.12)" >&2; exit 1; }
	@echo "Setting up $(VENV) (a minute or so) ..."
	@if [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ] || ! $(BIN)/python -c '' 2>/dev/null; then \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
			rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
			$(PYTHON) -m pip --python $(BIN)/python --quiet --quiet install pip; }; \
	fi
	@rm -f $@
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@printf '%s' "$(CURDIR)" > $@

demo: setup ## Run the demo: real workers, a real SIGKILL, nothing lost
	@$(BIN)/python -m workers $(ARGS)

# Most tests wait, for processes and for times to pass, so six at a time suit two cores. A file's tests share its fixtures.
# In the order of the directories: the long ones first, so that all end together.
test: setup ## Run the tests
	@$(BIN)/python -m pytest $(if $(findstring -n,$(ARGS)),,-n 6 --dist loadfile --no-loadscope-reorder) $(ARGS)

test-slow: setup ## Run what `make test` leaves out: two pools of four, more examples, waits for real time-outs (about a quarter of an hour)
	@$(BIN)/python -m pytest $(if $(findstring -n,$(ARGS)),,-n 4 --dist worksteal) --hypothesis-profile explore -m slow $(ARGS)

# What `make test` draws is always the same.
explore: setup ## Run the tests that use Hypothesis with FACTOR (10) times as many examples, drawn at random
	@EXPLORE_FACTOR=$(or $(FACTOR),10) $(BIN)/python -m pytest $(if $(findstring -n,$(ARGS)),,-n 2 --dist worksteal) \
		--hypothesis-profile explore -m drawn $(ARGS)

# WITH replaces versions of the lock; ORCHESTRATOR_REDIS_SERVER names another server.
test-versions: ## Run the tests with other versions, as in WITH="celery==5.6.3 kombu==5.6.2 redis==6.4.0" ARGS="tests/unit"
	@rm -rf $(VERSIONS) && $(PYTHON) -m venv $(VERSIONS)
	@for what in "--requirement requirements.lock" "$(WITH)" "--no-deps --no-build-isolation --editable ."; do \
		test -z "$$what" || $(VERSIONS)/bin/python -m pip --quiet --disable-pip-version-check --no-input install $$what || exit 1; \
	done
	@$(VERSIONS)/bin/python -m pytest $(if $(findstring -n,$(ARGS)),,-n 6 --dist loadfile --no-loadscope-reorder) $(ARGS)

coverage: setup ## Run the unit tests with coverage; fails below the floor in pyproject.toml
	@$(BIN)/coverage run -m pytest tests/unit $(ARGS)
	@$(BIN)/coverage report --skip-covered

lint: setup ## Check style, spelling, links, Lua, formatting, types and import layers
	@$(MAKE) --jobs=2 --keep-going --output-sync=target lint-types lint-others

# Without its cache mypy takes longer than all others.
lint-types:
	@$(BIN)/mypy $(SOURCES)

lint-others:
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@git ls-files -z | xargs -0 $(BIN)/codespell
	@$(BIN)/python -m tests.style
	@$(BIN)/lint-imports --no-cache

docker-test: setup ## Build the image, run the stack, kill and stop its containers (needs Docker)
	@$(BIN)/python -m pytest tests/docker -m docker $(ARGS)

chaos: setup ## Kill workers, beat, the manager and Redis under load for five minutes; ARGS="--help" for options
	@$(BIN)/python -m chaos $(ARGS)

soak: setup ## The same for half an hour, with more kills
	@$(BIN)/python -m chaos --duration-s 1800 --every-s 4 $(ARGS)

bench-transport: setup ## Compare the transport with kombu's own (about five minutes)
	@$(BIN)/python -m benchmarks.transport $(ARGS)

bench-monitors: setup ## Measure monitors: a million of them, and deaths of real workers (about five minutes)
	@$(BIN)/python -m benchmarks.monitors $(ARGS)

bench-coordination: setup $(PEERS)/.setup-done ## Kill leaders, hand leases over, beside kazoo and redis-py's Lock (about half an hour)
	@$(BIN)/python -m benchmarks.coordination $(ARGS)

bench-dead-letters: setup ## Add a million dead letters, search and replay some (about five minutes)
	@$(BIN)/python -m benchmarks.dead_letters $(ARGS)

bench-import: setup ## Compare importing this library with importing Celery (half a minute)
	@$(BIN)/python -m benchmarks.imports $(ARGS)

bench-calls: setup $(PEERS)/.setup-done ## Measure calls, beside Celery's .get(), and breakers, beside pybreaker and purgatory (about four minutes)
	@$(BIN)/python -m benchmarks.calls $(ARGS)

bench-workflows: setup $(PEERS)/.setup-done ## Compare workflows with Celery's canvas and with DBOS (about ten minutes)
	@$(BIN)/python -m benchmarks.workflows $(ARGS)

bench-schedules: setup $(PEERS)/.setup-done ## Fire a hundred thousand schedules, beside RedBeat (about eight minutes)
	@$(BIN)/python -m benchmarks.schedules $(ARGS)

bench-send: setup $(PEERS)/.setup-done ## Compare supervised sends with Celery's and with other libraries (about eight minutes)
	@$(BIN)/python -m benchmarks.send $(ARGS)

bench-supervise: setup $(PEERS)/.setup-done ## Compare the supervision tree with supervisord and circus (about three minutes)
	@$(BIN)/python -m benchmarks.supervise $(ARGS)

# Other libraries, to compare with: an environment of their own, so that theirs and ours need not agree on anything.
$(PEERS)/.setup-done: requirements-peers.lock
	@echo "Setting up $(PEERS) (a minute or so) ..."
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install -r requirements-peers.lock
	@touch $@

format: setup ## Format the code and sort its imports
	@$(BIN)/ruff check --select I --fix .
	@$(BIN)/ruff format .

clean: ## Remove .venv, caches and local state
	@rm -rf $(VENV) $(PEERS) $(VERSIONS) .state build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
