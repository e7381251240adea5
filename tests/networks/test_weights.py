"""`--weights`: what fits is loaded, everything else is refused with a message, nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bmtas.architecture import BranchedArchitecture
from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.weights import load_weights
from bmtas.tasks import Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision

MOBILENET = get_backbone("mobilenet_v2")
TASK = Task(name="depth", kind=TaskKind.DEPTH)
FILE = "mobilenet_v2-7ebf99e0.pth"  # of torchvision's MobileNet_V2_Weights.IMAGENET1K_V2


@pytest.fixture(scope="module")
def state() -> Mapping[str, Tensor]:
    torch.manual_seed(0)
    return import_torchvision().models.mobilenet_v2(weights=None).state_dict()


def load(choice: str) -> None:
    weights = load_weights(choice, MOBILENET)
    assert weights is not None
    weights.load_into(MOBILENET.operations())


def refusal(choice: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(str(choice))
    return str(caught.value)


def test_no_weights_are_asked_for() -> None:
    assert load_weights("none", MOBILENET) is None


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_every_encoder_layer_starts_from_the_file(tmp_path: Path, state: Mapping[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(dict(state), path)
    else:
        torch.save(state, path)
    weights = load_weights(str(path), MOBILENET)
    assert weights is not None
    assert weights.covers("stem")
    assert [weights.covers(name) for name in MOBILENET.layer_names()] == [True] * 17 + [False]  # R-ASPP has none
    assert not weights.covers("heads.depth")
    architecture = BranchedArchitecture(
        backbone="mobilenet_v2",
        tasks=("depth", "edge"),
        groupings=((("depth", "edge"),),) * 5 + ((("depth",), ("edge",)),) * 13,
    )
    tasks = (TASK, Task(name="edge", kind=TaskKind.EDGE))
    built = build_network(architecture, tasks, weights).state_dict()
    for key, value in state.items():
        _, number, rest = key.split(".", 2)
        if key.startswith("classifier") or number == "18":
            continue
        layer = int(number) - 1
        names = ["stem.depth+edge"] if layer < 0 else [f"layers.{layer:02d}.depth+edge"]
        if layer >= 5:
            names = [f"layers.{layer:02d}.depth", f"layers.{layer:02d}.edge"]
        for name in names:
            assert torch.equal(built[f"{name}.{rest}"], value), name


def test_copies_of_a_layer_do_not_share_their_values(tmp_path: Path, state: Mapping[str, Tensor]) -> None:
    torch.save(state, tmp_path / "weights.pth")
    weights = load_weights(str(tmp_path / "weights.pth"), MOBILENET)
    names = ("depth", "edge")
    network = build_network(
        BranchedArchitecture.separate("mobilenet_v2", names, 18), (TASK, Task(name="edge", kind=TaskKind.EDGE)), weights
    )
    pointers = [parameter.data_ptr() for parameter in network.parameters()]
    assert len(set(pointers)) == len(pointers)


def test_a_file_that_does_not_exist_is_named() -> None:
    assert (
        refusal("imagnet")
        == "--weights 'imagnet' is neither 'imagenet' nor 'none' nor a file that exists; give one of these"
    )


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        torch.zeros(3),
        {"state_dict": {"features.0.0.weight": torch.zeros(1)}},
        {"epoch": 3},
        {0: torch.zeros(1)},
    ],
    ids=["list", "tensor", "nested", "numbers", "names that are numbers"],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    message = refusal(tmp_path / "weights.pth")
    assert "weights.pth" in message
    assert "state dict" in message or "expected the names of torchvision's mobilenet_v2" in message


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_that_was_cut_short_is_refused(
    tmp_path: Path, state: Mapping[str, Tensor], share: float, form: str
) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(dict(state), path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert f"{path} cannot be read as weights" in refusal(path)


@pytest.mark.parametrize("content", [b"hello world", b"\x00" * 100, b"<html>not found</html>"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert f"{path} cannot be read as weights" in refusal(path)


def test_another_network_s_weights_are_refused_with_what_was_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "resnet.pth"
    torch.save(import_torchvision().models.resnet18(weights=None).state_dict(), path)
    message = refusal(path)
    assert f"weights from {path} hold no parameters called 'features.0.*'" in message
    assert "torchvision's mobilenet_v2, found bn1.bias" in message


def test_a_network_of_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    torch.save(import_torchvision().models.mobilenet_v2(weights=None, width_mult=0.5).state_dict(), path)
    assert f"weights from {path} do not fit stem" in refusal(path)


def test_a_missing_parameter_is_named(tmp_path: Path, state: Mapping[str, Tensor]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in state.items() if k != "features.3.conv.0.1.running_mean"}, path)
    message = refusal(path)
    assert "do not fit layers.02" in message
    assert "conv.0.1.running_mean" in message


class Code:
    """Unpickled carelessly, this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path, form: str) -> None:
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    content = {"features.0.0.weight": Code(made)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    assert "cannot be read as weights" in refusal(path)
    assert not made.exists()
    # the test would notice: the same bytes, read without care, do make the folder
    torch.load(path, weights_only=False) if form == "torch" else pickle.loads(path.read_bytes())
    assert made.exists()


# --- imagenet


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloads, and no way to the network: a proxy on a port where nobody listens."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_without_a_network_the_message_says_where_the_weights_belong(hub: Path) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        load_weights("imagenet", MOBILENET)
    message = str(caught.value)
    assert f"https://download.pytorch.org/models/{FILE}" in message
    assert f"put the file at {hub / FILE}" in message
    assert "--weights FILE" in message
    assert "--weights none" in message
    assert caught.value.exit_code == 3


def test_weights_that_were_put_in_place_are_used(hub: Path, state: Mapping[str, Tensor]) -> None:
    hub.mkdir(parents=True)
    torch.save(state, hub / FILE)
    weights = load_weights("imagenet", MOBILENET)
    assert weights is not None
    assert torch.equal(weights.by_operation["stem"]["0.weight"], state["features.0.0.weight"])


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut"])
def test_a_broken_download_is_explained(hub: Path, content: bytes) -> None:
    hub.mkdir(parents=True)
    (hub / FILE).write_bytes(content)
    with pytest.raises((EnvironmentProblem, UsageError)) as caught:
        load_weights("imagenet", MOBILENET)
    assert str(hub / FILE) in str(caught.value)
