# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`. Both make .venv first.

PYTHON ?=
ARGS   ?=
MINUTES  ?= 10
TOPOLOGY ?= single
SEED     ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
QUICK  := tests/unit tests/bench tests/store/test_contract.py

.DEFAULT_GOAL := help
.PHONY: help venv demo test quick repeat long servers containers storm duplicates loops soak bench costs lint format types sync check-sync layers model wheel-test ci clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## make .venv with the package and its tools (PYTHON=python3.12 picks the Python)

$(STAMP): pyproject.toml tools/venv.sh
	@tools/venv.sh $(VENV) $(PYTHON)
	@echo "installing histstore[dev] into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## run the demonstration on an embedded server (ARGS="--input FILE.jsonl")
	@$(BIN)/python -m histstore.demo $(ARGS)

# Compiled and rewritten tests are kept: each worker and each subprocess of a test would compile them again.
unexport PYTHONDONTWRITEBYTECODE

test: $(STAMP) ## run the tests, several at once (ARGS="-k name")
	@tools/run_tests.sh $(BIN)/python $(ARGS)

quick: $(STAMP) ## run the tests that need no server, and one pass of the stores' contract (ARGS="-k name")
	@$(BIN)/python -m pytest -q -m 'not slow' -n 3 --dist worksteal $(QUICK) $(ARGS)

repeat: $(STAMP) ## run the tests that measure time 20 times, and stop at the first failure (ARGS="5 -k name")
	@tools/repeat_tests.sh $(BIN)/python $(ARGS)

long: $(STAMP) ## run the tests that keep all cores busy, one after the other (ARGS="-k name")
	@$(BIN)/python -m pytest -q -m long tests $(ARGS)

servers: $(STAMP) ## run the store and script tests on Redis 6.2 to 8.2, Valkey 8.1 and 9.1 (ARGS="--only 6.2 --contract")
	@$(BIN)/python tools/servers.py $(ARGS)

containers: $(STAMP) ## run the store tests on a server in a container; starts a Docker engine if none answers (needs root)
	@$(BIN)/python -m tools.containers $(ARGS) || [ $$? = 77 ]

storm: $(STAMP) ## all faults at once for two minutes, each call checked (ARGS="--seconds 600 --seed 7")
	@$(BIN)/python -m tests.faults.storm $(ARGS)

duplicates: $(STAMP) ## each request of a script delivered up to three times, for two minutes (ARGS as for storm)
	@$(BIN)/python -m tests.faults.duplicates $(ARGS)

loops: $(STAMP) ## one backend in many event loops, threads, forks and a pool for a minute (ARGS as for storm)
	@$(BIN)/python -m tests.faults.loops $(ARGS)

soak: $(STAMP) ## kill, freeze and part servers and 32 worker processes (MINUTES=10 TOPOLOGY=single|sentinel|cluster SEED=7)
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --topology $(TOPOLOGY) $(if $(SEED),--seed $(SEED))

bench: $(STAMP) ## measure it beside raw redis-py and the peers, which it installs (ARGS="--quick")
	@$(BIN)/python -m tests.bench $(ARGS)

lint: $(STAMP) ## check style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP) ## format the code and mend what can be mended
	@$(BIN)/ruff check --fix-only . && $(BIN)/ruff format .

types: $(STAMP) ## check types: mypy over the package, mypy and pyright over user code and the documentation
	@$(BIN)/mypy && $(BIN)/pyright --pythonpath $(BIN)/python && $(BIN)/python -m pytest -q tests/docs/test_types.py

sync: $(STAMP) ## generate histstore/_sync from histstore/_async
	@$(BIN)/python tools/unasync.py

check-sync: $(STAMP) ## check that histstore/_sync is what `make sync` would write
	@$(BIN)/python tools/unasync.py --check

layers: $(STAMP) ## check that imports point one way
	@$(BIN)/lint-imports

model: $(STAMP) ## check the protocol's models with spin (ARGS="--quick")
	@$(BIN)/python tests/model/run.py $(ARGS)

costs: $(STAMP) ## count what calls cost, and hold it against tests/bench/budget.toml (ARGS="--quick")
	@$(BIN)/python -m tests.bench.cost $(ARGS)

wheel-test: $(STAMP) ## build sdist and wheel, and try them away from the checkout (ARGS="--all-pythons")
	@$(BIN)/python tools/wheel_test.py $(ARGS)

ci: ## run what CI runs
	@bash .ci/run

clean: ## remove .venv, .venv-bench, .servers, caches and builds
	@rm -rf $(VENV) .venv-bench .servers build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
