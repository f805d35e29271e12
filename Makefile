# Every command of the project; CI runs the same ones. `make help` lists them.
# Works from any folder (`make -C /path/to/eyepiece run`) and needs Python 3.11 or newer, nothing else.

.DEFAULT_GOAL := help

BIN := .venv/bin
# Packages are installed uncompiled: let each process keep what it compiles, or every one of them starts slowly.
unexport PYTHONDONTWRITEBYTECODE
# Only from the command line: a TORCH that happens to be in someone's environment means something else.
SETUP := bin/setup $(if $(filter command,$(origin TORCH)),--torch "$(TORCH)")

.PHONY: help setup run test lint fix types check test-gpu bench bench-gpu bench-engine bench-live bench-scaling migrate revision pin clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  Options: EYEPIECE_PORT=4000, EYEPIECE_DATA=/big/disk (all in docs/settings.md), PYTHON=python3.13,'
	@echo '  TORCH=2.15.0 (another PyTorch than the pinned one), ARGS="-k jobs" (passed on to run, test, test-gpu, bench*).'

setup: ## Install what `make run` needs into .venv and build the browser assets
	@$(SETUP) run assets

run: ## Set up if needed, then start Eyepiece; Ctrl-C stops it
	@$(SETUP) run assets
	@exec $(BIN)/eyepiece up $(ARGS)

test: ## Run every test; GPU and browser tests skip where there is no GPU or Chromium
	@$(SETUP) dev assets
	@$(BIN)/python -m pytest $(ARGS)

lint: ## Check style, formatting and which package may import which
	@$(SETUP) dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

fix: ## Repair style and formatting where ruff can
	@$(SETUP) dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: ## Check types with mypy
	@$(SETUP) dev
	@$(BIN)/mypy

check: lint types test ## All of lint, types and test

test-gpu: ## Run only the tests that need a CUDA device
	@$(SETUP) dev
	@$(BIN)/python -m pytest -m gpu $(ARGS)

bench: ## Run the short measurements in tests/bench
	@$(SETUP) dev
	@bin/bench $(ARGS)

bench-gpu: ## Measure from tokens to dashboards on a CUDA device: tests/bench/results/gpu.json
	@$(SETUP) dev
	@$(BIN)/python -m tests.bench.gpu.bench_gpu $(ARGS)

bench-engine: ## Measure side by side with SAEDashboard, half an hour; ARGS=--quick takes minutes, ARGS=--write keeps it
	@$(SETUP) dev
	@$(BIN)/python -m tests.bench.bench_engine $(ARGS)

bench-live: ## Measure live answers for 1, 8 and 32 callers, some minutes; ARGS=--quick, ARGS=--write keeps it
	@$(SETUP) dev
	@$(BIN)/python -m tests.bench.bench_live $(ARGS)

bench-scaling: ## Measure cost against tokens, features and L0; ARGS=--write keeps and draws it
	@$(SETUP) dev
	@$(BIN)/python -m tests.bench.bench_scaling $(ARGS)

migrate: ## Bring the database's tables up to date
	@$(SETUP) run
	@$(BIN)/eyepiece migrate

revision: ## Write a new migration from the difference between tables and database: make revision m="add x"
	@test -n "$(m)" || { echo 'Say what it does: make revision m="add density to features"'; exit 2; }
	@$(SETUP) dev
	@$(BIN)/python bin/revision.py "$(m)"

pin: ## Write constraints.txt anew: the newest versions that pyproject.toml allows, PyTorch as it is
	@$(SETUP) dev
	@$(BIN)/python bin/pin.py

clean: ## Delete .venv, built assets and caches; data/ stays
	rm -rf .venv .bench frontend/node_modules frontend/dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
