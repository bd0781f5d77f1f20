# `make demo` and `make test` do everything on a fresh machine, the installation included.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest --numprocesses=3 --dist=worksteal

.PHONY: demo test test-fast lint lock clean

demo: $(VENV)/installed
	$(RUN) -m src.train

test: $(VENV)/installed
	$(PYTEST)

test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow"

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# What was tested, exactly; pyproject.toml has the ranges. By uv, in a third of pip's time; a mirror of
# the registry is named to it by UV_DEFAULT_INDEX, not by pip.conf.
$(VENV)/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet uv==0.13.9
	$(RUN) -m uv pip install --quiet --compile-bytecode --requirement requirements.lock
	$(RUN) -m uv pip install --quiet --no-deps --editable .
	touch $@

# For every platform and Python version at once, without any address in it.
lock:
	$(RUN) -m uv pip compile pyproject.toml --extra dev --extra export --extra optuna --extra slurm --universal --python-version 3.11 \
		--no-header --no-annotate --quiet --output-file requirements.lock

clean:
	rm -rf outputs data/two_movers data/.two_movers.*
