# upshift. Every target sets itself up from a bare checkout and does only what is new on later runs.
#
#   make test PYTHON=python3.12                  another interpreter (the environment is made anew)
#   make test PYTHON=python3.9 VENV=.venv-3.9    … beside the default one
#   make test ARGS="-k reload -x"                arguments for the runner behind the target

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

# rustup's folder counts even where the login shell does not put it on PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin
export VIRTUAL_ENV := $(abspath $(VENV))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport CONDA_PREFIX PYTHONPATH PYTHONHOME UPSHIFT_INSTALL

PY := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
PYTHON_ID := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
# python/ itself is installed in place: only what the compiler reads makes a new build necessary.
SOURCES := Cargo.toml .cargo/config.toml $(wildcard build.rs) $(shell find src -name '*.rs')

.PHONY: help demo test test-engine test-python lint lint-rust lint-python lint-types lint-house bench bench-bundled wheel format clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help:
	@echo 'make demo     scan real sources with a cached application (ARGS="PATH" for another tree)'
	@echo 'make test     engine tests (cargo) and package tests (pytest, ARGS go there)'
	@echo 'make lint     rustfmt, clippy, ruff, mypy, stubtest, architecture tests'
	@echo 'make bench    ratios against the peers, on a release build'
	@echo 'make bench-bundled   the SQLite rows of it, on a private copy of SQLite'
	@echo 'make wheel    dist/*.whl for this interpreter, linked to the system SQLite'
	@echo 'make format   rewrite Rust and Python sources in the house format'
	@echo 'make clean    remove everything that was built, and the environment'

# ---- the five jobs -------------------------------------------------------------------------------------------------

demo: $(STAMPS)/extension-release
	$(VENV)/bin/upshift demo $(ARGS)

test: test-engine test-python

test-engine: $(STAMPS)/venv
	cargo test --no-default-features

test-python: $(STAMPS)/extension $(STAMPS)/test
	$(PY) -m pytest $(ARGS)

# `make -k lint` goes on after the first part that fails.
lint: lint-rust lint-python lint-types lint-house

lint-rust: $(STAMPS)/venv
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings

lint-python: $(STAMPS)/lint
	$(PY) -m ruff check
	$(PY) -m ruff format --check

lint-types: $(STAMPS)/extension $(STAMPS)/lint $(STAMPS)/test
	$(PY) -m mypy
	@# The façades first: they attach cold methods to the native classes.
	$(PY) -m mypy.stubtest upshift.cache upshift.sqlite upshift.tasks upshift._native --mypy-config-file pyproject.toml --allowlist tests/stubtest-allowlist.txt

lint-house: $(STAMPS)/extension $(STAMPS)/test
	$(PY) -m pytest -q tests/architecture

bench: $(STAMPS)/extension-release $(STAMPS)/bench
	@$(PY) -W ignore -c 'import sys, upshift._native as native; sys.exit(native.debug_build)' || \
	    { echo 'upshift: a debug build is installed, its numbers mean nothing; make clean, then make bench' >&2; exit 1; }
	$(PY) benches/python $(ARGS)

# The wheel of the bundled build lies in a folder that comes before the environment's own.
bench-bundled: $(STAMPS)/extension-bundled $(STAMPS)/bench
	PYTHONPATH=$(abspath $(VENV)/bundled) $(PY) benches/python --rows sqlite $(ARGS)

wheel: $(STAMPS)/build
	$(VENV)/bin/maturin build --release --interpreter $(PY) --compatibility linux --auditwheel skip --out dist

format: $(STAMPS)/lint
	cargo fmt
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

clean:
	rm -rf target dist build $(VENV) .hypothesis .pytest_cache .mypy_cache .ruff_cache python/upshift/_native*.so
	find python tests benches -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# ---- what they stand on --------------------------------------------------------------------------------------------

# A changed interpreter changes the stamp's name, so the environment is made anew.
$(STAMPS)/python-$(PYTHON_ID):
	@tools/system.sh $(PYTHON)
	@# The base interpreter: PYTHON may be the one of the environment that is being replaced.
	base=$$($(PYTHON) -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)') && \
	    "$$base" -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/venv: $(STAMPS)/python-$(PYTHON_ID)
	@touch $@

# One dependency group of pyproject.toml each.
$(STAMPS)/build $(STAMPS)/lint $(STAMPS)/test $(STAMPS)/bench: pyproject.toml $(STAMPS)/venv
	$(PY) -m pip install --quiet --group $(@F)
	@touch $@

# Optimised, but quick to compile (profile `quick` in Cargo.toml). A release build that is up to date serves as well.
$(STAMPS)/extension: $(SOURCES) pyproject.toml $(STAMPS)/build
	@rm -f $(STAMPS)/extension-release
	$(VENV)/bin/maturin develop --quiet --profile quick
	@touch $@

$(STAMPS)/extension-release: $(SOURCES) pyproject.toml $(STAMPS)/build
	$(VENV)/bin/maturin develop --quiet --release
	@touch $(STAMPS)/extension $@

# Compiled apart, so that neither build makes the other stale; options of the library are in .cargo/config.toml.
$(STAMPS)/extension-bundled: $(SOURCES) $(shell find python -name '*.py') pyproject.toml $(STAMPS)/build
	@rm -rf $(VENV)/bundled $(VENV)/bundled-wheel
	$(VENV)/bin/maturin build --quiet --release --features bundled-sqlite --target-dir target/bundled \
	    --interpreter $(PY) --compatibility linux --auditwheel skip --out $(VENV)/bundled-wheel
	$(PY) -m pip install --quiet --no-deps --target $(VENV)/bundled $(VENV)/bundled-wheel/*.whl
	@touch $@
