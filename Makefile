# `make demo` and `make test` do everything on a bare machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
TEST_PROCESSES ?= 2
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

# Side by side: mypy is one process, and so is the end of the tests.
types: install-dev
	$(RUN) -m mypy .

units: install-dev
	$(RUN) -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# The demo with one epoch of few cases a stage: it shows that everything runs, not that it learns.
quick-demo: install
	out=$$(mktemp -d) && $(RUN) demo.py --quick --out $$out && rm -r $$out

# Changes one thing at a time in the code that matters most: does a test notice? Not part of `test`.
mutation: install-dev
	$(RUN) tests/_mutation.py

install: $(INSTALLED)

install-dev: $(INSTALLED_DEV)

# Each is made again only when its requirements change.
$(INSTALLED): requirements.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	touch $(INSTALLED)

# What requirements-dev.txt includes.
OPTIONAL := requirements-dicom.txt requirements-export.txt requirements-nnunet.txt
$(INSTALLED_DEV): requirements-dev.txt $(OPTIONAL) $(INSTALLED)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt
	touch $(INSTALLED_DEV)

format: install-dev
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:
	rm -rf $(VENV) demo_output .mypy_cache .ruff_cache .pytest_cache
