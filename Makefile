# `make attack` and `make test` work on a bare machine with Python 3.11; a second call skips the set-up.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: attack test check benchmarks docs clean
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

# In an environment of its own: mkdocs-material needs a newer requests than torchattacks allows.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

.venv-docs/.ready: docs/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check --quiet install -r docs/requirements.txt
	touch $@

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
	rm -rf .venv .venv-docs site build dist *.egg-info
