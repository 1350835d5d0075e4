# make run    installs into .venv and runs the quickstart from sampling to the retrained winner
# make test   the same set-up, runs the tests
# make check  lint, types and import arrows
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check install

run: install
	$(BIN)/genas run quickstart

test: install
	$(BIN)/python -m pytest -q

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

install: .venv/installed

.venv/installed: setup.py constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version) if sys.version_info < (3, 11) else None"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/installed
