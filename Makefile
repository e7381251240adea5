# Everything runs in .venv, which `make setup` creates and all other targets bring up to date when needed.
PYTHON ?= python3
VENV := .venv
BMTAS := $(VENV)/bin/bmtas
RUNS ?= runs
BUDGET ?= 9GMAdds

.PHONY: setup demo test test-slow lint verify-tensorrt clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# The main job on the embedded data: search, then the network found beside the shared and the separate ones.
demo: setup
	$(BMTAS) search --budget $(BUDGET) --runs $(RUNS)
	$(BMTAS) train --network all --runs $(RUNS)
	$(BMTAS) export --network all --runs $(RUNS)
	$(BMTAS) bench --network all --samples 20 --warmup 3 --runs $(RUNS)
	$(BMTAS) show --runs $(RUNS)

# A file's tests stay in one process: they share what is dear to make.
test: setup
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test-slow: setup
	$(VENV)/bin/python -m pytest -m slow

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Needs an NVIDIA GPU with TensorRT: builds, proves and measures engines, and writes docs/tensorrt_report.md.
verify-tensorrt: setup
	$(VENV)/bin/python benchmarks/verify_tensorrt.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
