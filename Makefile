# One command each; the first call on a fresh machine builds .venv, later ones only when the pins change.
#
#   make                            install linscore with what all its jobs, the tests and the checks need
#   make score                      score the built-in decoder on the built-in text; options in ARGS="...";
#                                   installs no more than that needs
#   make test                       run all tests; options in ARGS="..."
#   make test-fast                  run those that are not marked slow, while you work: under a minute on two cores
#   make fuzz                       read 22,000 damaged files: about two minutes
#   make bench                      time everything against its peers on the CPU: under ten minutes
#   make bench-gpu                  check every kernel on the GPU, then time everything there: eight minutes;
#                                   with .venv where there is one, else with PYTHON as it is
#   make paper                      hold the paper's claims against what ships: docs/paper.md, in some ten minutes;
#                                   --full in ARGS: the paper's models and data, on a machine with a Hub; --list: what
#                                   is run; one alone: .venv/bin/python -m benchmarks.paper.figure_6
#   make sweep                      try every class of causal language models that transformers has, tiny and random:
#                                   docs/decoders.md, in some ten minutes
#   make docs                       the documentation as a site: site/index.html, with every warning an error; to search
#                                   it, .venv/bin/python -m http.server --directory site
#   make dist                       sdist and wheel, checked as PyPI will, in dist/; REPOSITORY=https://... where it is
#   make package                    install that wheel into empty environments by pip, uv and pipx, and score in each
#   make check                      format, lint and types, changing nothing
#   make clean                      remove .venv and everything that can be made again
#
# PYTHON=python3.12                 the interpreter that .venv is made from (3.10 or newer)
# TORCH_INDEX=https://...           one more package index for torch, such as that of the CPU builds

PYTHON ?= python3
TORCH_INDEX ?=
REPOSITORY ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RELEASE := build/release
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
# Without --no-compile a third of the installation goes into bytecode of modules that are never imported.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

# Files are given out in the order that tests/conftest.py brings them into. Several processes share the cores: threads of
# torch and of NumPy's OpenBLAS that wait for one burn ten times what they compute, also in processes that a test starts.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Many containers set it; every process of the tests would then compile torch and transformers anew, for 9 seconds.
unexport PYTHONDONTWRITEBYTECODE

HAS_VENV := $(wildcard $(BIN)/python)

.PHONY: install score test test-fast fuzz bench bench-gpu paper sweep docs dist package check clean
.DEFAULT_GOAL := install

install: $(DEV)

score: $(RUNTIME)
	$(BIN)/linscore score --html $(ARGS)

test: $(DEV)
	$(PYTEST) $(ARGS)

test-fast: $(DEV)
	$(PYTEST) -m "not slow" $(ARGS)

fuzz: $(DEV)
	LINSCORE_FUZZ=22000 $(PYTEST) tests/test_fuzz.py $(ARGS)

bench: $(DEV)
	$(BIN)/python benchmarks/run.py --device cpu --seconds 590 $(ARGS)

bench-gpu: $(if $(HAS_VENV),$(DEV))
	$(if $(HAS_VENV),$(BIN)/python,$(PYTHON)) benchmarks/run.py --device cuda $(ARGS)

paper: $(DEV)
	$(BIN)/python -m benchmarks.paper.run $(ARGS)

sweep: $(DEV)
	$(BIN)/python -m benchmarks.studies.sweep $(ARGS)

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)

dist: $(RELEASE)
	rm -rf dist
	LINSCORE_REPOSITORY=$(REPOSITORY) $(RELEASE)/bin/python -m build --outdir dist .
	$(RELEASE)/bin/twine check --strict dist/*

package: dist
	$(RELEASE)/bin/python -m benchmarks.studies.installs dist/*.whl $(ARGS)

# Not in .venv: what uploads has dependencies of its own.
$(RELEASE):
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check build twine uv pipx

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "linscore needs Python 3.10 or newer: name one with make PYTHON=..." >&2; exit 1; }
	@echo "installing linscore into $(VENV), a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@$(PIP) --editable '.[html]'
	@touch $@

$(DEV): $(RUNTIME)
	@echo "installing what every job, the tests and the checks need"
	@$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
