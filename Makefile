# make reproduce   the whole study on the embedded data, then open reports/quick/README.md
# make test        the tests
# Both make .venv first, with the pinned packages; a second call installs and runs nothing that is up to date.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: reproduce test bench environment
environment: .venv/installed

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

reproduce: environment
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m stages.reproduce

test: environment
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest

bench: environment
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=. python tests/benchmarks/evaluation.py
