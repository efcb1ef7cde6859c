# Two commands do everything: `make demo` and `make test`. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Many small factorisations: one BLAS thread is faster than several.
export OPENBLAS_NUM_THREADS = 1

.PHONY: demo test test-numerics fuzz lint bench evidence clean

demo: .venv/.core
	rm -rf demo-out
	$(BIN)/s3lora demo -o demo-out

test: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# The tests that compare results in floating point, under the kernels of older processors and the
# machine's own.
test-numerics: .venv/.test
	$(BIN)/python tests/numerics.py

# What reads bytes from strangers, eight seconds for each kind: fuzz/README.md.
fuzz: .venv/.fuzz
	$(BIN)/python fuzz/run.py

lint: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: .venv/.core
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/planted.py

# Some hours; an interrupted run goes on where it was. glibc is told to keep freed memory: giving
# it back and faulting it in again costs a tenth of a training step.
evidence: export MALLOC_MMAP_MAX_ = 0
evidence: export MALLOC_TRIM_THRESHOLD_ = 17179869184
evidence: export MALLOC_TOP_PAD_ = 268435456
evidence: export OPENBLAS_NUM_THREADS =
evidence: .venv/.test
	$(BIN)/s3lora study evidence/smollm2/study.toml
	$(BIN)/s3lora study evidence/defences/study.toml

clean:
	rm -rf .venv demo-out benchmarks/work fuzz/work evidence/*/work

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The core and no more: numpy, safetensors, ml_dtypes, threadpoolctl, click, rich and jinja2.
.venv/.core: pyproject.toml | .venv/bin/python
	$(PIP) install -e .
	touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@ .venv/.core

.venv/.fuzz: .venv/.test
	$(PIP) install -c constraints.txt -e '.[fuzz]'
	touch $@
