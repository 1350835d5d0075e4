# make run    installs into .venv and runs the quickstart from sampling to the retrained winner
# make test   the same set-up, runs the tests
# make check  lint, types and import arrows
# make faults the fault suite alone, with its table
# make chaos  150 random kills of workers and drivers, with real trainings
# make fuzz   100,000 broken inputs to everything that parses
# make audit  known vulnerabilities in the pinned packages
PYTHON ?= python3
BIN := .venv/bin
TESTS := $(BIN)/python -m pytest -q -n auto --maxprocesses 4

.PHONY: run test check faults chaos fuzz audit install

run: install
	$(BIN)/genas run quickstart

test: install
	$(TESTS) --dist loadfile

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

faults: install
	$(TESTS) tests/faults

chaos: install
	$(BIN)/python benchmarks/chaos.py

fuzz: install
	GENAS_FUZZ=1 $(TESTS) tests/faults/test_fuzz.py

audit: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip -r constraints.txt

install: .venv/installed

.venv/installed: setup.py constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version) if sys.version_info < (3, 11) else None"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/installed
