# The commands of this project. They use a virtual environment in .venv, which the first command makes (install.sh).
PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
BIN := $(VENV)/bin
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
# A worker that dies ends the tests and names its test: pytest-xdist would otherwise wait for that worker for ever.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --max-worker-restart=0
export PYTHON
export NO_SYSTEM_PACKAGES

.PHONY: help demo test fuzz ordeals check lint wheel clean

help:
	@echo 'make demo    prepare text, pretrain a small biLM, evaluate and fine-tune it: some minutes, in $(DEMO)'
	@echo 'make check   the fast checks: ruff, types, layout, fast tests'
	@echo 'make test    all tests; as root it installs Slurm and chromium for them, unless NO_SYSTEM_PACKAGES=1 is set'
	@echo 'make fuzz    damage all inputs in 10,000 ways, and each byte of a dataset: about fifteen minutes'
	@echo 'make ordeals Slurm jobs that lose nodes, networks and disks, on a cluster on this machine: five minutes'
	@echo 'make wheel   build wheel and sdist in dist/, and use the wheel in an empty environment: two minutes'
	@echo 'make clean   remove $(VENV) and caches; runs/ and data/ stay'

demo: $(VENV)/demo.stamp
	@$(BIN)/elmo demo $(DEMO)

test: $(VENV)/dev.stamp
	@sh tests/install_slurm.sh
	@sh tests/install_browser.sh
	$(PYTEST) -m 'not ordeal' tests
	@echo 'make test: all passed. Next: make demo, or CONTRIBUTING.md to change something.'

fuzz: $(VENV)/dev.stamp
	$(BIN)/python -m tests.fuzz

ordeals: $(VENV)/dev.stamp
	@sh tests/install_slurm.sh
	$(BIN)/python -m pytest -m ordeal tests/slurm

check: lint
	$(PYTEST) -q -m 'not slow' tests
	@echo 'make check: all passed. Next: make test, which runs the slow tests too.'

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/dev.stamp
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	sh tests/try_wheel.sh dist/*.whl

$(VENV)/%.stamp: pyproject.toml constraints.txt install.sh
	@sh install.sh $(VENV) $*

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
