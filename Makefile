PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: train test lint docs clean

train: $(VENV)/.installed  ## set up everything, then the default run
	$(BIN)/python train.py optimizer=adamw scheduler=cosine_warmup
	@echo
	@echo 'from now on: `. $(BIN)/activate` and then `python train.py ...`, or `$(BIN)/python train.py ...`'

test: $(VENV)/.installed-dev  ## set up everything, then the whole suite
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev  ## write the stubs, tables and pages, then build the site into site/
	$(BIN)/python scripts/stubs.py
	$(BIN)/python scripts/pages.py  # first: tables link to the pages that exist
	$(BIN)/python scripts/tables.py
	$(BIN)/python scripts/counterparts.py
	$(BIN)/python scripts/memory.py
	$(BIN)/python scripts/measure_optimizers.py --write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo 'open site/index.html; with search: $(BIN)/python -m http.server -d site'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# constraints.txt holds the versions that the suite was run with
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf site $(VENV) .pytest_cache .mypy_cache .ruff_cache
