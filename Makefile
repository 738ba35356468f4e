# Two commands matter: `make interpolate` shows the project at work, `make test` checks it. Both set up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Build environments are held to the same lock as everything else.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: interpolate test lint test-slow test-gpu test-browser bench chaos corpus costs audit clean

interpolate: .venv/installed
	$(BIN)/python jobs/interpolate.py jobs/samples out

# Two at a time: half of most tests is waiting for processes to start.
test: lint
	$(BIN)/pytest -m "not slow and not gpu and not browser" -n 2 --dist loadfile

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: .venv/installed-test
	$(BIN)/pytest -m slow

# Fails where no GPU is found: it is for machines that were promised one.
test-gpu: .venv/installed-test
	MOTIONMILL_REQUIRE_GPU=1 $(BIN)/pytest -m gpu

# Fails where no Chromium is found (Debian: apt-get install chromium).
test-browser: .venv/installed-test
	$(BIN)/pytest -m browser

# Three jobs and everything that can go wrong, on three raylets and a real S3 server: about an hour. Runs what has not
# passed yet; results and a table are in out/chaos.
chaos: .venv/installed-test
	$(BIN)/python -m tests.chaos --missing

# 2,400 damaged videos, each committed with correct frames or refused: some minutes.
corpus: .venv/installed-test
	$(BIN)/python -m tests.corpus

# What each job asks of an S3 server, keeps, and needs, and a night's costs from that: about ten minutes.
costs: .venv/installed-test
	$(BIN)/python -m tests.costs

# Everything that is installed is pinned; part of the tests too.
audit: .venv/installed-test
	$(BIN)/python -m tests.security.audit

bench: .venv/installed
	$(BIN)/python jobs/benchmark.py interpolate

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@

clean:
	rm -rf .venv out build *.egg-info
