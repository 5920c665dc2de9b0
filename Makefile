# make demo   a first run, from data to a comparison of samplers
# make test   linters, types, tests
# make bench  the table of speed, into results/speed.md and README (a quarter of an hour)
# All set up .venv when there is none. Another interpreter: make test PYTHON=/path/to/python

PYTHON ?= $(shell for p in python3.11 python3.10 python3; do $$p -c "" 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
IN_VENV := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PIP_INSTALL := $(IN_VENV) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_NUM_THREADS := 1

.PHONY: demo test bench

demo: $(INSTALLED)
	@$(IN_VENV) -m recbole_hnlm.demo

test: $(INSTALLED)
	@$(IN_VENV) -m ruff check .
	@$(IN_VENV) -m ruff format --check .
	@$(IN_VENV) -m mypy recbole_hnlm
	@$(IN_VENV) -m pytest -q -n 2

bench: $(INSTALLED)
	@$(IN_VENV) benchmarks/bench.py --out results/speed.md --readme README.md $(BENCH)

# torch comes first and pinned: an open range would fetch the newest build with several gigabytes of CUDA.
# RecBole needs ray <= 2.6.3, which does not exist for Python 3.12 and later; there it is installed without it.
$(INSTALLED): setup.cfg setup.py pyproject.toml constraints.txt
	@test -x $(IN_VENV) || test -n "$(PYTHON)" || \
		{ echo "No python3 found; install Python 3.10 to 3.13 or run: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(IN_VENV) || $(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$(PYTHON) is not Python 3.10 to 3.13; run: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(IN_VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); this takes some minutes and happens once."
	@$(PIP_INSTALL) torch
	@! $(IN_VENV) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || $(PIP_INSTALL) --no-deps recbole==1.2.1
	@$(PIP_INSTALL) --editable '.[test,offline]'
	@touch $@
