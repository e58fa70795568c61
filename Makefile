PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check format faults bundle-check release benchmark benchmark-gpu gpu-check
demo: $(VENV)/installed  ## train on the embedded phantoms
	$(BIN)/python -m monai.bundle run training --config_file configs/train.json

PYTEST := OMP_NUM_THREADS=1 MONAI_FAIL_ON_DUPLICATE_CONFIG=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 15

test: check  ## format, lint, types, and the tests that are not slow
	$(PYTEST) -m "not slow"

test-all: check  ## and the slow tests: the release check, all fault runs, new processes and more ranks
	$(PYTEST)

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bundle-check: $(VENV)/installed  ## the release, checked with MONAI's own tools
	$(BIN)/python tools/bundle_check.py

release: $(VENV)/installed  ## dist/simcvd_vVERSION.zip; with WEIGHTS_URL=... also the folder for the Model Zoo
	$(BIN)/python tools/release.py $(if $(WEIGHTS_URL),--weights_url $(WEIGHTS_URL))

faults: $(VENV)/installed  ## all fault runs of docs/reliability.md: kills, disk, bad input, memory
	$(BIN)/python tests/faults/kills.py
	$(BIN)/python tests/faults/storage.py
	$(BIN)/python tests/faults/bad_input.py
	$(BIN)/python tests/faults/endurance.py
	$(BIN)/python tests/faults/environment.py
	FUZZ_EXAMPLES=500 $(BIN)/python -m pytest -q tests/data/test_safety.py

LA := --config_file configs/data_la.json --dataset_dir $(DATA)
WEIGHTS ?= models/model.pt

benchmark: $(VENV)/installed  ## all figures of docs/performance.md: make benchmark DATA=prepared_left_atrium [WEIGHTS=model.pt]
	mkdir -p runs/benchmark
	$(BIN)/python benchmarks/train_step.py $(LA) $(TRAIN_STEP) --json runs/benchmark/train_step.json
	$(BIN)/python benchmarks/inference.py $(LA) --weights $(WEIGHTS) --json runs/benchmark/inference.json
	$(BIN)/python benchmarks/scaling.py --json runs/benchmark/scaling.json

gpu-check: $(VENV)/installed  ## the first ten minutes on a GPU; skips without one
	mkdir -p runs
	$(BIN)/python benchmarks/gpu_check.py --json runs/gpu_check.json

# 989 TFLOP/s: dense bfloat16 of an H100 or H200
benchmark-gpu: TRAIN_STEP := --peak_tflops 989
benchmark-gpu: SHELL := /bin/bash
benchmark-gpu: benchmark  ## the same on a GPU, and the whole training of 6000 iterations
	time $(BIN)/python -m monai.bundle run training --config_file "['configs/train.json','configs/data_la.json']" \
		--dataset_dir $(DATA) --output_dir runs/benchmark/la16_simcvd --ckpt_dir runs/benchmark/models --precision bfloat16

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements.txt -e ".[dev]"
	touch $@
