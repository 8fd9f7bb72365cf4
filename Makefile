# `make demo` and `make test` do everything on a bare machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
TEST_PROCESSES ?= 2
MADE := $(VENV)/made
INSTALLED := $(VENV)/installed
INSTALLED_DEV := $(VENV)/installed-dev

.PHONY: demo test types units quick-demo mutation install install-dev format clean

demo: install
	$(RUN) demo.py

test: install-dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(MAKE) --no-print-directory --jobs 2 types units
	$(MAKE) --no-print-directory quick-demo

# Beside the tests; the demo behind them: beside them it takes three times as long, and they longer.
types: install-dev
	$(RUN) -m mypy .

# A thread each: what tests start would wait for one another's threads, twice the work in all.
units: install-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# The demo with one epoch of few cases a stage: it shows that everything runs, not that it learns.
quick-demo: install
	out=$$(mktemp -d) && $(RUN) demo.py --quick --out $$out && rm -r $$out

# Changes one thing at a time in the code that matters most: does a test notice? Not part of `test`.
mutation: install-dev
	$(RUN) tests/_mutation.py

install: $(INSTALLED)

install-dev: $(INSTALLED_DEV)

# Python compiles what is imported, at its first import; pip would compile every file of every package.
# Container images often forbid to keep what was compiled: each process would compile torch again.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(RUN) -m pip install --quiet --no-compile

# Each is made again only when its requirements change.
$(INSTALLED): requirements.txt | $(MADE)
	$(PIP_INSTALL) --requirement requirements.txt
	touch $(INSTALLED)

# What requirements-dev.txt includes, requirements.txt among it.
OPTIONAL := requirements-dicom.txt requirements-export.txt requirements-nnunet.txt
$(INSTALLED_DEV): requirements-dev.txt requirements.txt $(OPTIONAL) | $(MADE)
	$(PIP_INSTALL) --requirement requirements-dev.txt
	touch $(INSTALLED) $(INSTALLED_DEV)

$(MADE):
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	touch $(MADE)

format: install-dev
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:
	rm -rf $(VENV) demo_output .mypy_cache .ruff_cache .pytest_cache
