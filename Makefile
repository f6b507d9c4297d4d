# Two commands matter: `make run` and `make test`. Both make what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test lint bench lock licences sbom clean

help:
	@echo "make run    run everything on this machine (CKEYS_PORT, CKEYS_HOME)"
	@echo "make test   all tests and checks"
	@echo "make bench  measurements, printed as tables"
	@echo "make lock   resolve requirements/*.txt anew"
	@echo "make sbom   software bill of materials of what is deployed (CycloneDX), in .build/sbom.json"

run: $(VENV)/.local
	@$(BIN)/ckeys run

test: $(VENV)/.dev $(VENV)/.tccli
	@tests/run

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock:
	requirements/lock.sh

licences: $(VENV)/.dev
	$(BIN)/python requirements/licences.py

# From the lock alone, with its hashes; the same lock gives the same bytes. (A lock has no graph of dependencies, which
# the tool would warn of.)
sbom: $(VENV)/.dev
	@mkdir -p .build
	@$(BIN)/python -W "ignore:The Component this BOM is describing:UserWarning" $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --sv 1.6 --of JSON \
	  -o .build/sbom.json requirements/runtime.txt
	@echo .build/sbom.json

bench: $(VENV)/.dev
	@for name in warm_verdict cold_start snapshot_size revocation scale root_rotation peers; do $(BIN)/python bench/$$name.py || exit; done

clean:
	rm -rf $(VENV) .build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The locks hold every package with its hash, so nothing is resolved here: --no-deps keeps what the locks leave out.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "consumer-keys needs Python 3.10 or newer; '$(PYTHON)' is none. Set PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments; install its venv package (Debian: python3-venv)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.local: $(VENV)/.python requirements/local.txt pyproject.toml
	@echo "Installing what the local run needs ..."
	@$(PIP) --require-hashes -r requirements/local.txt
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.local requirements/dev.txt
	@echo "Installing what the tests need ..."
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# tccli needs the complete SDK, which must not share an environment with the per-product packages. Of its thousands of
# modules a few are ever used, so they are not compiled beforehand.
$(VENV)/.tccli: $(VENV)/.python requirements/tccli.txt
	@echo "Installing tccli ..."
	@$(PYTHON) -m venv $(VENV)/tccli
	@$(VENV)/tccli/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-compile --require-hashes -r requirements/tccli.txt
	@touch $@
