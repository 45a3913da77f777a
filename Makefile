# make demo | make test | make samples | make help
PYTHON ?= python3
BIN := .venv/bin

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/developed: .venv/installed
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['dev'], sep='\n')" > .venv/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r .venv/dev.txt
	touch $@

demo: .venv/installed  ## a complete audit of the shipped twins on handwritten digits, into ./audit-demo
	$(BIN)/audit demo

test: .venv/developed  ## the test suite, in under five minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest  # tests/test_types.py runs mypy

samples: .venv/developed  ## remake sample_reports from a fresh run of the demo
	rm -rf .venv/demo
	$(BIN)/audit demo --out .venv/demo
	$(BIN)/python docs/samples.py .venv/demo
	command -v chromium > /dev/null && $(BIN)/python docs/screenshot.py || echo "no chromium: report.png is left as it was"

test-demo: .venv/developed  ## compare a fresh run of the demo with sample_reports
	rm -rf .venv/demo
	$(BIN)/audit demo --out .venv/demo > .venv/demo.txt
	AUDITOR_DEMO_RUN=.venv/demo $(BIN)/python -m pytest tests/test_samples.py

lint: .venv/developed  ## format and check the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: .venv/developed  ## what mypy finds; make test allows what tests/types.json does
	$(BIN)/mypy

clean:  ## remove the environment and the demo run
	rm -rf .venv audit-demo

.PHONY: help demo test test-demo samples lint types clean
