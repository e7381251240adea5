"""torchvision beside a CPU-only PyTorch: each test in a process of its own, because an import happens once."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import warnings
warnings.simplefilter("ignore")
import torch
from bmtas.torchvision_remedy import import_torchvision, remedy_active
"""


def run(code: str) -> str:
    """Run `code` in a fresh interpreter and return its last line."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def works_by_itself() -> bool:
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False)
    return done.returncode == 0


def test_networks_of_torchvision_run() -> None:
    code = """
torchvision = import_torchvision()
model = torchvision.models.mobilenet_v2(weights=None).eval()
with torch.no_grad():
    print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))
"""
    assert run(code) == "(1, 1000)"


def test_the_remedy_is_active_where_it_is_needed(works_by_itself: bool) -> None:
    if works_by_itself:
        pytest.skip("`import torchvision` works by itself here")
    code = """
print(remedy_active())
first = import_torchvision()
again = import_torchvision()
import torchvision
print(remedy_active(), again is first, torchvision is first)
"""
    assert run(code) == "True True True"


def test_the_remedy_is_inactive_where_it_is_not_needed(works_by_itself: bool) -> None:
    if not works_by_itself:
        pytest.skip("`import torchvision` fails by itself here: a CUDA build beside a CPU-only PyTorch")
    assert run("import_torchvision()\nprint(remedy_active())") == "False"
    assert run("import torchvision\nimport_torchvision()\nprint(remedy_active())") == "False"


def test_the_remedy_is_inactive_where_somebody_else_has_defined_the_operators(works_by_itself: bool) -> None:
    if works_by_itself:
        pytest.skip("`import torchvision` works by itself here, the operators cannot be defined again")
    code = """
theirs = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    theirs.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision
print(import_torchvision() is torchvision, remedy_active())
"""
    assert run(code) == "True False"


def test_the_remedy_works_after_an_import_that_failed(works_by_itself: bool) -> None:
    if works_by_itself:
        pytest.skip("`import torchvision` works by itself here")
    code = """
try:
    import torchvision
except RuntimeError as error:
    assert "nms" in str(error), error
else:
    raise AssertionError("it should have failed")
model = import_torchvision().models.resnet50(weights=None)
import torchmetrics.classification
print(remedy_active(), len(model.layer3))
"""
    assert run(code) == "True 6"


def test_the_missing_operators_say_so_when_they_are_called(works_by_itself: bool) -> None:
    if works_by_itself:
        pytest.skip("`import torchvision` works by itself here, the operators are there")
    code = """
torchvision = import_torchvision()
try:
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
except (NotImplementedError, RuntimeError) as error:
    print("custom C++ ops" in str(error) or "nms" in str(error))
"""
    assert run(code) == "True"


def test_importing_the_remedy_imports_neither_torch_nor_torchvision() -> None:
    code = "import sys, bmtas.torchvision_remedy; print([n for n in ('torch', 'torchvision') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_many_threads_may_need_it_at_once() -> None:
    """As those that load images do; without a lock they found half a module, or a dictionary that grew under them."""
    code = (
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import torch\n"
        "from bmtas.torchvision_remedy import import_torchvision\n"
        "barrier = threading.Barrier(8)\n"
        "def ask(_):\n"
        "    barrier.wait()\n"
        "    return import_torchvision().transforms.functional.resize\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    assert len(set(pool.map(ask, range(8)))) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
