"""`bmtas doctor`: what it finds in environments that are made for it, and the commands that mend it, word for word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from export.machine.identity import identify
from tests.export.machine.stand_in import grow, put

# Loads what the checks need, and then sees nothing but the standard library and what the test gives.
LEAN = """
import json, os, sys
from pathlib import Path
from export.doctor.examine import examine, to_json
import export.doctor
home = str(Path(export.doctor.__file__).resolve().parents[2])
standard = [p for p in sys.path if p.startswith(sys.base_prefix) and "site-packages" not in p]
os.chdir(sys.argv[3])
sys.path[:] = [*sys.argv[4:], home, *standard]
for name in ("cli", *[n for n in sys.modules if n.startswith("cli.")]):
    sys.modules.pop(name, None)
print(json.dumps(to_json(*examine(Path(sys.argv[2]), Path(sys.argv[1])))))
"""
OURS = (
    "typer",
    'torch>=2.9; extra == "train"',
    'onnx>=1.17; extra == "train"',
    'bmtas[train]; extra == "host"',
    'onnxruntime>=1.20; extra == "host"',
    'bmtas[train]; extra == "gpu"',
    'onnxruntime-gpu>=1.20; extra == "gpu"',
    'tensorrt>=10.3; extra == "gpu"',
    'openvino>=2024.4; extra == "openvino"',
)


def distribution(site: Path, name: str, version: str, requires: Sequence[str] = (), tops: Sequence[str] = ()) -> None:
    """Install a distribution as far as its metadata go."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    put(site, f"{folder}/METADATA", "\n".join(lines) + "\n")
    put(site, f"{folder}/top_level.txt", "\n".join(tops))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages that holds bmtas and nothing else."""
    place = tmp_path / "site"
    distribution(place, "bmtas", "0.1.0", OURS, ("bmtas", "cli", "costs", "export"))
    return place


@pytest.fixture
def doctor(tmp_path: Path, site: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that examines, in a process of its own, a machine (a tree) with the packages of `site` and the paths before it."""

    def examine(*before: str, root: Path | None = None, folder: Path | None = None) -> dict[str, Any]:
        place = root or tmp_path / "root"
        place.mkdir(exist_ok=True)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                LEAN,
                str(place),
                str(tmp_path / "runs"),
                str(folder or tmp_path),
                *before,
                str(site),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
        )
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    return examine


def named(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [finding for finding in report["findings"] if finding["name"] == name]
    assert isinstance(found, dict)
    return found


def told(report: dict[str, Any], name: str) -> tuple[str, str, str | None]:
    found = named(report, name)
    return found["level"], found["found"], found["fix"]


def test_an_environment_with_bmtas_alone(doctor: Callable[..., dict[str, Any]]) -> None:
    report = doctor()
    assert report["schema_version"] == 1
    assert report["blocked"] is False
    assert told(report, "extra host") == (
        "note",
        "not installed: torch, onnx, onnxruntime; it is needed for search, train and export",
        "pip install 'bmtas[host]'",
    )
    assert told(report, "extra openvino")[2] == "pip install 'bmtas[openvino]'"
    assert told(report, "ONNX Runtime") == (
        "note",
        "not installed; bench and export need it",
        "pip install onnxruntime",
    )
    assert told(report, "TensorRT")[:2] == ("ok", "not installed, and without an NVIDIA GPU not needed")
    assert named(report, "package names")["level"] == "ok"
    assert [f for f in report["findings"] if f["name"] in ("extra gpu", "extra tensorboard", "PyTorch")] == []


def test_what_is_too_old_is_told(doctor: Callable[..., dict[str, Any]], site: Path) -> None:
    for name, version in (("torch", "2.8.1+cpu"), ("onnx", "1.17.0"), ("onnxruntime", "1.20")):
        distribution(site, name, version)
    assert told(doctor(), "extra host") == (
        "warning",
        "torch 2.8.1+cpu, 2.9 is needed; it is needed for search, train and export",
        "pip install 'bmtas[host]'",
    )


def test_a_complete_extra(doctor: Callable[..., dict[str, Any]], site: Path) -> None:
    for name, version in (("torch", "2.13.0"), ("onnx", "1.20.0"), ("onnxruntime-gpu", "1.31.0")):
        distribution(site, name, version)
    assert told(doctor(), "extra host") == ("ok", "complete: search, train and export", None)


def test_two_variants_of_onnx_runtime_are_a_fault(
    doctor: Callable[..., dict[str, Any]], site: Path, tmp_path: Path
) -> None:
    distribution(site, "onnxruntime", "1.31.0")
    distribution(site, "onnxruntime-gpu", "1.31.0")
    report = doctor()
    assert report["blocked"] is True
    both = "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files; there must be exactly one"
    fix = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install "
    assert told(report, "ONNX Runtime variants") == ("fault", both, fix + "onnxruntime")
    with_gpu = doctor(root=grow("desktop", tmp_path / "desktop"))
    assert told(with_gpu, "ONNX Runtime variants") == ("fault", both, fix + "onnxruntime-gpu")


def torch_in(site: Path, *, cuda: str | None, library: bool) -> None:
    distribution(site, "torch", "2.13.0+cpu" if cuda is None else "2.13.0")
    put(site, "torch/__init__.py", "raise ImportError('doctor imports it')")
    shown = None if cuda is None else f"'{cuda}'"
    put(
        site,
        "torch/version.py",
        f"__version__ = '2.13.0'\ndebug = False\ncuda: Optional[str] = {shown}\nhip: Optional[str] = None",
    )
    put(site, "torch/lib/libtorch_cpu.so", "")
    if library:
        put(site, "torch/lib/libtorch_cuda.so", "")


def test_pytorch_without_the_gpu_that_is_there(
    doctor: Callable[..., dict[str, Any]], site: Path, tmp_path: Path
) -> None:
    torch_in(site, cuda=None, library=False)
    assert told(doctor(), "PyTorch") == ("ok", "2.13.0+cpu, for the CPU only", None)
    assert told(doctor(root=grow("desktop", tmp_path / "desktop")), "PyTorch") == (
        "warning",
        "2.13.0+cpu, for the CPU only; this machine has a GPU",
        "pip uninstall -y torch torchvision && pip install torch torchvision",
    )
    assert told(doctor(root=grow("agx_orin", tmp_path / "orin")), "PyTorch")[0] == "note"


def test_pytorch_for_cuda(doctor: Callable[..., dict[str, Any]], site: Path, tmp_path: Path) -> None:
    torch_in(site, cuda="12.8", library=True)
    assert told(doctor(root=grow("desktop", tmp_path / "desktop")), "PyTorch") == ("ok", "2.13.0, for CUDA 12.8", None)


@pytest.mark.parametrize(
    ("wants", "needs_cuda", "library", "level", "fix"),
    [
        ("2.13.0", True, True, "ok", None),
        ("2.13.0", False, False, "ok", None),
        (
            *("2.13.0", True, False, "note"),
            "pip install --force-reinstall --no-deps torchvision --index-url https://download.pytorch.org/whl/cpu",
        ),
        ("2.12.0", False, False, "warning", "pip install --upgrade --force-reinstall torch torchvision"),
    ],
)
def test_torchvision_beside_pytorch(
    doctor: Callable[..., dict[str, Any]],
    site: Path,
    wants: str,
    needs_cuda: bool,
    library: bool,
    level: str,
    fix: str | None,
) -> None:
    torch_in(site, cuda="12.8" if library else None, library=library)
    distribution(site, "torchvision", "0.28.0", ["numpy", f"torch=={wants}"])
    put(site, "torchvision/__init__.py", "raise ImportError('doctor imports it')")
    put(site, "torchvision/_C.so", "ELF libtorch_cpu.so" + (" libtorch_cuda.so" if needs_cuda else ""))
    found = told(doctor(), "torchvision")
    assert (found[0], found[2]) == (level, fix)
    assert ("torchvision::nms does not exist" in found[1]) == (level == "note")


def test_another_distribution_with_a_package_of_ours(doctor: Callable[..., dict[str, Any]], site: Path) -> None:
    distribution(site, "some-cli", "3.1", tops=("cli",))
    report = doctor()
    assert report["blocked"] is True
    assert told(report, "package cli") == (
        "fault",
        "the distribution some-cli also brings a package 'cli', so one of the two has overwritten the other",
        "python3 -m venv .venv && .venv/bin/pip install bmtas",
    )
    assert [f for f in report["findings"] if f["name"] == "package names"] == []


def test_a_package_of_ours_that_is_found_elsewhere(
    doctor: Callable[..., dict[str, Any]], tmp_path: Path, site: Path
) -> None:
    put(tmp_path, "other/cli/__init__.py", "")
    level, found, fix = told(doctor(str(tmp_path / "other")), "package cli")
    assert level == "fault"
    assert found.startswith(f"'cli' is found in {tmp_path / 'other/cli'}, and not in ")
    assert fix == "python3 -m venv .venv && .venv/bin/pip install bmtas"


def test_a_file_in_the_working_folder(doctor: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "work"
    put(folder, "export.py", "")
    level, found, fix = told(doctor(folder=folder), "package export")
    assert (level, fix) == ("note", f"mv {folder / 'export.py'} {folder / 'my_export.py'}")
    assert found.startswith(f"{folder / 'export.py'} has the name of a package of bmtas; `python -m`")
    level, found, _ = told(doctor("", folder=folder), "package export")  # PYTHONPATH with an empty entry
    assert (level, found.rpartition(", ")[2]) == ("warning", "and Python looks there")


def test_the_sources_of_bmtas_are_no_strangers(doctor: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    for name in ("bmtas", "cli", "costs", "export"):
        put(tmp_path, f"clone/{name}/__init__.py", "")
    assert told(doctor(folder=tmp_path / "clone"), "package names")[0] == "ok"


HERE = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="the tests run outside of a virtual environment")
def test_the_system_s_tensorrt_behind_a_closed_environment(
    doctor: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    root = grow("agx_orin", tmp_path / "orin")
    put(root, f"usr/lib/{HERE}/dist-packages/tensorrt/__init__.py", "")
    level, found, fix = told(doctor(root=root), "TensorRT")
    assert level == "warning"
    if "include-system-site-packages = true" not in (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8"):
        assert "made without --system-site-packages" in found
        assert fix == (
            "sed -i 's/include-system-site-packages = false/include-system-site-packages = true/' "
            f"{Path(sys.prefix) / 'pyvenv.cfg'}"
        )


def test_the_system_s_tensorrt_for_another_python(doctor: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    root = grow("agx_orin", tmp_path / "orin")
    put(root, "usr/lib/python3.8/dist-packages/tensorrt/__init__.py", "")
    level, found, fix = told(doctor(root=root), "TensorRT")
    assert level == "warning"
    assert f"for python3.8; this is {HERE}" in found
    assert fix == "python3.8 -m venv --system-site-packages .venv && .venv/bin/pip install bmtas"


def test_tensorrt_is_missing_where_there_is_a_gpu(doctor: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    missing = ("note", "not installed; bmtas build needs it")
    assert told(doctor(root=grow("desktop", tmp_path / "a")), "TensorRT") == (*missing, "pip install tensorrt")
    assert told(doctor(root=grow("agx_orin", tmp_path / "b")), "TensorRT") == (
        *missing,
        "sudo apt install nvidia-jetpack",
    )


def test_a_runtime_that_breaks_does_not_break_the_doctor(doctor: Callable[..., dict[str, Any]], site: Path) -> None:
    put(site, "openvino/__init__.py", "raise ImportError('libopenvino.so: cannot open shared object file')")
    put(site, "onnxruntime/__init__.py", "import os\nos.abort()")
    report = doctor()
    assert report["blocked"] is True
    assert told(report, "OpenVINO") == (
        "fault",
        "cannot be imported: ImportError: libopenvino.so: cannot open shared object file",
        "pip install --force-reinstall openvino",
    )
    level, found, fix = told(report, "ONNX Runtime")
    assert (level, fix) == ("fault", "pip install --force-reinstall onnxruntime")
    assert found == "cannot be imported: its process ended with code -6"


def fake_onnxruntime(site: Path, providers: str) -> None:
    put(
        site,
        "onnxruntime/__init__.py",
        f"__version__ = '1.31.1'\ndef get_available_providers():\n    return {providers}",
    )


def test_a_runtime_without_the_gpu_that_is_there(
    doctor: Callable[..., dict[str, Any]], site: Path, tmp_path: Path
) -> None:
    fake_onnxruntime(site, "['CPUExecutionProvider']")
    assert told(doctor(), "ONNX Runtime") == ("ok", "1.31.1 on CPU", None)
    assert told(doctor(root=grow("desktop", tmp_path / "desktop")), "ONNX Runtime") == (
        "warning",
        "1.31.1 on CPU; this machine has a GPU, which this build cannot use",
        "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
    )
    level, _, fix = told(doctor(root=grow("agx_orin", tmp_path / "orin")), "ONNX Runtime")
    assert (level, fix) == ("note", "bmtas build model.onnx, and bmtas bench on the engine")


def test_a_provider_whose_library_does_not_load(
    doctor: Callable[..., dict[str, Any]], site: Path, tmp_path: Path
) -> None:
    fake_onnxruntime(site, "['CUDAExecutionProvider', 'CPUExecutionProvider']")
    report = doctor(root=grow("desktop", tmp_path / "desktop"))
    level, found, fix = told(report, "ONNX Runtime on CUDA")
    assert (level, fix) == ("warning", "pip install 'bmtas[gpu]' 'onnxruntime-gpu[cuda,cudnn]'")
    assert "libonnxruntime_providers_shared.so: cannot open shared object file" in found
    assert told(report, "ONNX Runtime") == ("ok", "1.31.1 on CUDA, CPU", None)


def test_nothing_heavy_is_imported_here(doctor: Callable[..., dict[str, Any]]) -> None:
    code = (
        "import sys\nfrom cli.doctor import doctor_command\ndoctor_command(json='-')\n"
        "print('\\n' + ' '.join(m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert '"schema_version": 1' in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_the_command_prints_a_table_and_writes_json(bmtas: Callable[..., Any], tmp_path: Path) -> None:
    shown = bmtas("doctor", "--json", tmp_path / "doctor.json", "--runs", tmp_path / "runs")
    report = json.loads((tmp_path / "doctor.json").read_text(encoding="utf-8"))
    assert shown.code == (3 if report["blocked"] else 0)
    assert shown.out.index("python") < shown.out.index("runtimes") < shown.out.index("space")
    assert {finding["area"] for finding in report["findings"]} == {"python", "runtimes", "machine", "space"}
    assert report["machine"]["title"] == identify().title
    assert not (tmp_path / "runs").exists()


def test_a_fault_ends_with_the_code_of_the_environment(bmtas: Callable[..., Any], tmp_path: Path) -> None:
    put(tmp_path, "file", "")
    told = bmtas("doctor", "--runs", tmp_path / "file", "--json", "-")
    assert told.code == 3
    assert json.loads(told.out)["blocked"] is True
    assert f"runs folder: {tmp_path / 'file'} is no folder (bmtas COMMAND --runs FOLDER)" in told.err
