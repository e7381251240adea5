# Everything runs in .venv, which `make setup` creates and all other targets bring up to date when needed.
PYTHON ?= python3
VENV := .venv
BMTAS := $(VENV)/bin/bmtas
RUNS ?= runs
BUDGET ?= 9GMAdds

.PHONY: setup demo test test-slow lint docs verify-tensorrt clean

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
	$(BMTAS) report --runs $(RUNS)

# A file's tests stay in one process, and files that share what is dear to make (tests/conftest.py).
test: setup
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test-slow: setup
	$(VENV)/bin/python -m pytest -m slow

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Into site/, which can be opened from the disk; a dead link or anchor is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

# Builds, proves and measures engines on a PC with an NVIDIA GPU, and writes docs/tensorrt_report.md. The environment is one of its own:
# constraints.txt pins the CPU's PyTorch and ONNX Runtime, so it is left out here, and the two variants of ONNX Runtime exclude
# each other. --system-site-packages shows it a TensorRT that the system has; OpenVINO proves the bf16 file before it is built.
# On a Jetson take a kit instead: benchmarks/verify_tensorrt.py says how.
GPU_VENV ?= .venv-gpu

verify-tensorrt: $(GPU_VENV)/installed
	$(GPU_VENV)/bin/python benchmarks/verify_tensorrt.py

$(GPU_VENV)/installed: pyproject.toml
	@test ! -e /etc/nv_tegra_release || { echo "this is a Jetson: benchmarks/verify_tensorrt.py says at its top how to verify a kit here" >&2; exit 3; }
	@command -v nvidia-smi >/dev/null || { echo "make verify-tensorrt needs an NVIDIA GPU and its driver: nvidia-smi was not found" >&2; exit 3; }
	$(PYTHON) -m venv --system-site-packages $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[gpu,openvino]'
	touch $@

clean:
	rm -rf $(VENV) $(GPU_VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
