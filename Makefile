# `make attack` and `make test` work on a bare machine with Python 3.11; a second call skips the set-up.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: attack test check benchmarks clean
.DELETE_ON_ERROR:

attack: .venv/.run
	.venv/bin/robust attack --model ast --norm linf

# One thread for each of the two workers: with two each they wait for one another, up to fifteen times slower.
test: export OMP_NUM_THREADS = 1
test: .venv/.dev
	.venv/bin/python -m pytest -n 2 --dist loadfile

check: .venv/.dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

benchmarks: .venv/.dev
	.venv/bin/python experiments/benchmarks/strength.py
	.venv/bin/python experiments/benchmarks/speed.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch first and pinned: a range would let pip take a release that torchvision does not fit.
.venv/.run: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install -c constraints.txt torch torchvision
	$(PIP) install -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.run
	$(PIP) install -c constraints.txt -e ".[dev,peers]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
