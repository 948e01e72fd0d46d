# Verbs: setup engines demo test lint type laws bench docs. Each does what it needs first, in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

ENGINES := .venv/.engines
.PHONY: setup engines demo test lint type laws bench docs
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench,docs]'
	touch $(READY)

setup: $(READY)

# The engines beside onnxruntime and torch; tests of those that are absent are skipped.
$(ENGINES): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[litert,executorch,openvino]'
	$(BIN)/dwindle doctor --install litert
	touch $(ENGINES)

engines: $(ENGINES)

demo: $(READY)
	$(BIN)/dwindle demo --out out/demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal --cov=dwindle --cov-report=
	$(BIN)/python -m coverage report --include='src/dwindle/core/*,src/dwindle/container/*' --fail-under=95

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

type: $(READY)
	$(BIN)/pyright

laws: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal -m "not network" tests/laws tests/parity

bench: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script --quick || exit 1; done

docs: $(READY)
	$(BIN)/python docs/generate.py
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/properdocs build --strict --quiet
