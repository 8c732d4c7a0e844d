# make help lists the targets. Those that need packages first make .venv from the locked list, with every file verified
# by its SHA-256; a second call installs nothing.
PYTHON ?= $(shell command -v python3.11 || echo python3)
DAYS ?= 30
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --custom-compile-command "make lock"
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help environment reproduce readme report test test-fast coverage chaos lint format bench clean lock
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

environment: .venv/installed  ## .venv with all locked packages (5 GB, most of it PyTorch)

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

.venv/linters: .venv/installed requirements/lint.txt
	$(INSTALL) --require-hashes -r requirements/lint.txt
	touch $@

.venv/bench: .venv/installed requirements/bench.txt
	$(INSTALL) --require-hashes -r requirements/bench.txt
	touch $@

reproduce: environment  ## the whole study on the embedded data
	$(RUN) python -m stages.reproduce

readme: environment  ## write the numbers of README.md, docs/findings.md, docs/fault-tolerance.md and reports/README.md
	$(RUN) python -m bayesft.report.readme

report:  ## open the newest report, or print where it is
	@page=$$(ls -t reports/*/*.html reports/*/README.md 2>/dev/null | head -n 1); echo "$$page"; \
	if [ -n "$$DISPLAY" ] && command -v xdg-open >/dev/null; then xdg-open "$$page"; fi

test: environment  ## all tests
	$(RUN) python -m pytest -n auto --dist loadfile

test-fast: environment  ## the tests that take seconds
	$(RUN) python -m pytest -n auto --dist loadfile -m "not slow and not pipeline"

coverage: environment  ## the same, with the share of lines that they run
	$(RUN) python -m pytest -n auto --dist loadfile -m "not slow and not pipeline" --cov --cov-report=term-missing:skip-covered

chaos: environment  ## ten minutes of damaged files, kills, full disks and wrong values
	$(RUN) PYTHONPATH=. python tests/chaos.py

lint: .venv/linters  ## formatter, linter, types, workflows
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(RUN) check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(RUN) zizmor --offline --quiet .github

format: .venv/linters  ## rewrite the code as the formatter wants it
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: .venv/bench  ## one drifted copy, timed against three other ways of evaluating it
	$(RUN) PYTHONPATH=. python tests/benchmarks/evaluation.py

clean: environment  ## remove what no run has used for 30 days from data/store (DAYS=0: everything)
	$(RUN) python -m bayesft.store data/store --unused-days $(DAYS)

lock: .venv/linters  ## write the locked lists of packages anew
	$(RUN) $(LOCK) pyproject.toml --extra test --output-file requirements.txt
	$(RUN) $(LOCK) --group lint --constraint requirements.txt --output-file requirements/lint.txt
	$(RUN) $(LOCK) pyproject.toml --extra bench --constraint requirements.txt --output-file requirements/bench.txt
