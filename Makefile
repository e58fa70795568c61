PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test format
demo: $(VENV)/installed  ## train on the embedded phantoms
	$(BIN)/python -m monai.bundle run training --config_file configs/train.json

test: $(VENV)/installed  ## all checks: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MONAI_FAIL_ON_DUPLICATE_CONFIG=1 $(BIN)/python -m pytest

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements.txt -e ".[dev]"
	touch $@
