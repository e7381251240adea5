"""From images to a measured network: what each command leaves behind, checked against other counters and by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from bmtas.networks.network import GraphNetwork
from bmtas.profile import count_network
from bmtas.runs import Run
from bmtas.training import load_network

TASKS = ["semseg", "edge", "depth"]
CHANNELS = {"semseg": 3, "edge": 1, "depth": 1}
NETWORKS = ("found", "shared", "separate")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def trained(path: Path, name: str) -> GraphNetwork:
    run = Run(path)
    return load_network(run.config(), run.architecture(name), run.network(name) / "weights.pt")


def madds_by_pytorch(network: torch.nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 64, 64))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def validation_image(tiny_data: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(tiny_data.parent / "images" / "10.png"), dtype=np.float32)
    return (pixels / 127.5 - 1.0).transpose(2, 0, 1)[None]


def test_every_json_file_carries_its_schema_version(tiny_run: Any) -> None:
    found = {p.relative_to(tiny_run.path).as_posix() for p in tiny_run.path.rglob("*.json")}
    per_network = ("architecture.json", "metrics.json", "parity.json")
    assert found >= {
        "run.json",
        "table.json",
        "architecture.json",
        "bench.json",
        "search/probabilities.json",
        *(f"networks/{name}/{file}" for name in NETWORKS for file in per_network),
    }
    schemas = {name: read(tiny_run.path / name)["schema_version"] for name in found}
    assert schemas == {name: 2 if name.endswith(("parity.json", "bench.json")) else 1 for name in found}


def test_no_temporary_files_are_left_in_the_run_folder(tiny_run: Any) -> None:
    assert [p for p in tiny_run.path.rglob("*") if p.name.startswith(".")] == []


def test_the_found_network_is_within_the_budget_by_three_counts(tiny_run: Any) -> None:
    costs = read(tiny_run.path / "architecture.json")["costs"]
    network = trained(tiny_run.path, "found")
    assert costs["madds"] <= 130e6
    assert count_network(network, (64, 64)).madds == costs["madds"]
    assert madds_by_pytorch(network) == costs["madds"]
    assert sum(p.numel() for p in network.parameters()) == costs["params"]


def test_json_of_search_is_the_architecture_that_was_found(tiny_run: Any) -> None:
    printed = json.loads(tiny_run.results["search"].out)
    stored = read(tiny_run.path / "architecture.json")
    assert {key: printed[key] for key in stored} == stored
    assert printed["tasks"] == TASKS
    assert len(printed["groupings"]) == 18  # MobileNetV2: 17 blocks and R-ASPP


def test_costs_of_shared_and_separate_networks_are_what_pytorch_counts(tiny_run: Any) -> None:
    networks = json.loads(tiny_run.results["evaluate"].out)["networks"]
    for name in NETWORKS:
        network = trained(tiny_run.path, name)
        assert networks[name]["costs"]["madds"] == madds_by_pytorch(network), name
        assert networks[name]["costs"]["params"] == sum(p.numel() for p in network.parameters()), name


def test_delta_m_is_the_mean_relative_gain_over_separate_networks(tiny_run: Any) -> None:
    networks = json.loads(tiny_run.results["evaluate"].out)["networks"]
    value = {name: {task: networks[name]["metrics"]["tasks"][task]["value"] for task in TASKS} for name in NETWORKS}
    base = value["separate"]
    for name in NETWORKS:
        gains = [
            (value[name]["semseg"] - base["semseg"]) / base["semseg"],  # miou, higher is better
            (value[name]["edge"] - base["edge"]) / base["edge"],  # ods_f, higher is better
            (base["depth"] - value[name]["depth"]) / base["depth"],  # rmse_m, lower is better
        ]
        assert networks[name]["delta_m_percent"] == pytest.approx(100 * sum(gains) / 3, abs=1e-9), name
    assert value["shared"] != base  # otherwise this shows nothing
    compared = {task: networks["found"]["metrics"]["tasks"][task]["metric"] for task in TASKS}
    assert compared == {"semseg": "miou", "edge": "ods_f", "depth": "rmse_m"}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_onnx_file_is_valid_and_static_with_one_output_per_task(tiny_run: Any, name: str) -> None:
    model = onnx.load(str(tiny_run.path / "networks" / name / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)

    def shape(value: Any) -> list[int]:
        return [d.dim_value for d in value.type.tensor_type.shape.dim]

    assert [(v.name, shape(v)) for v in model.graph.input] == [("image", [1, 3, 64, 64])]
    assert [(v.name, shape(v)) for v in model.graph.output] == [(t, [1, CHANNELS[t], 64, 64]) for t in TASKS]


def test_the_onnx_metadata_tell_a_device_all_it_needs(tiny_run: Any) -> None:
    model = onnx.load(str(tiny_run.path / "networks/found/model.onnx"))
    metadata = {p.key: json.loads(p.value) for p in model.metadata_props}
    architecture = read(tiny_run.path / "architecture.json")
    assert metadata["bmtas.architecture"]["groupings"] == architecture["groupings"]
    assert [t["name"] for t in metadata["bmtas.tasks"]] == TASKS
    assert metadata["bmtas.tasks"][0]["classes"] == ["floor", "box", "ball"]
    assert metadata["bmtas.costs"] == architecture["costs"]
    pixels = np.array([0.0, 127.5, 255.0])
    scaled = pixels * metadata["bmtas.input"]["scale"] + metadata["bmtas.input"]["offset"]
    assert scaled == pytest.approx([-1, 0, 1])
    assert metadata["bmtas.input"]["size"] == [64, 64]


def test_names_in_the_onnx_file_say_which_tasks_share_a_layer(tiny_run: Any) -> None:
    model = onnx.load(str(tiny_run.path / "networks/found/model.onnx"))
    groupings = read(tiny_run.path / "architecture.json")["groupings"]
    expected = {f"layers.{i:02d}.{'+'.join(block)}" for i, grouping in enumerate(groupings) for block in grouping}
    expected |= {f"heads.{task}" for task in TASKS} | {f"stem.{'+'.join(TASKS)}"}

    def owners(names: list[str]) -> set[str]:
        return {e for e in expected for name in names if name.startswith((e + ".", e + "/"))}

    assert owners([i.name for i in model.graph.initializer]) == expected
    assert owners([n.name for n in model.graph.node]) == expected


def test_the_onnx_file_tells_nothing_of_the_machine_that_wrote_it(tiny_run: Any) -> None:
    content = (tiny_run.path / "networks/shared/model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).resolve().parents[2]).encode() not in content


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_computes_what_pytorch_computes(tiny_run: Any, tiny_data: Path, name: str) -> None:
    image = validation_image(tiny_data)
    path = tiny_run.path / "networks" / name / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    exported = dict(zip(TASKS, session.run(TASKS, {"image": image}), strict=True))
    with torch.inference_mode():
        expected = trained(tiny_run.path, name)(torch.from_numpy(image))
    for task in TASKS:
        assert np.abs(exported[task] - expected[task].numpy()).max() <= 1e-4
        assert exported[task].std() > 0
    report = read(path.with_name("parity.json"))["artefacts"]["model.onnx"]
    assert report["passed"]
    assert report["images"] == 2  # all of the validation split
    assert list(report["tasks"]) == TASKS


def test_separate_networks_do_not_depend_on_each_other(tiny_run: Any, tiny_data: Path) -> None:
    image = torch.from_numpy(validation_image(tiny_data))
    for kept in TASKS:
        network = trained(tiny_run.path, "separate")
        with torch.inference_mode():
            before = network(image)
            others = [p for name, p in network.named_parameters() if kept not in name.split(".")]
            assert others
            for parameter in others:
                parameter.zero_()
            after = network(image)
        changed = {task for task in TASKS if not torch.equal(before[task], after[task])}
        assert changed == set(TASKS) - {kept}


def test_bench_reports_what_the_recorded_latencies_support(tiny_run: Any) -> None:
    report = read(tiny_run.path / "bench.json")
    assert sorted(r["network"] for r in report["results"]) == sorted(NETWORKS)
    for result in report["results"]:
        assert result["provider"] == "CPUExecutionProvider"
        for sample in (result["compute"], result["end_to_end"]):
            latencies = sample["latencies_ms"]
            assert len(latencies) == sample["samples"] == 4
            assert min(latencies) > 0
            assert sample["median_ms"] == pytest.approx(np.median(latencies), rel=1e-12)
            assert sample["low_ms"] is None  # four samples say nothing of where the median lies
            assert sample["percentiles"]["p90"] == {"value_ms": None, "bound_ms": None, "needed": 64}
            assert not sample["stable"]
            assert sample["warmup"]["rounds"] == 0


def test_show_prints_the_tree_and_who_shares_what(tiny_run: Any) -> None:
    text = tiny_run.results["show"].out
    groupings = read(tiny_run.path / "architecture.json")["groupings"]
    for task in TASKS:
        assert text.count(f"head {task}") == 1
    tree = text[: text.index("budget")]
    covered = dict.fromkeys(TASKS, 0)
    for line in tree.splitlines():
        match = re.search(r"layers? (\d+)(?:-(\d+))?  (\S+(?: \+ \S+)*)  ", line)
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            for task in match[3].split(" + "):
                covered[task] += last - first + 1
            for layer in range(first, last + 1):
                assert match[3].split(" + ") in groupings[layer]
    assert covered == dict.fromkeys(TASKS, 18)
    for name in NETWORKS:
        assert re.search(rf"│ {name} ", text)


def test_show_as_json_equals_what_evaluate_gave_but_for_the_latency(tiny_run: Any, bmtas: Callable[..., Any]) -> None:
    shown = json.loads(bmtas("show", "--json", "-", "--runs", tiny_run.root).out)
    evaluated = json.loads(tiny_run.results["evaluate"].out)
    for name in NETWORKS:
        assert shown["networks"][name]["latency"]["samples"] == 4
        assert evaluated["networks"][name]["latency"] is None
        shown["networks"][name]["latency"] = None
    assert shown == evaluated


def test_training_again_leaves_a_trained_network_alone(
    tiny_run: Any, bmtas: Callable[..., Any], copied_run: Callable[..., Path]
) -> None:
    path = copied_run("run.json", "table.json", "architecture.json", "networks/shared/weights.pt")
    before = (path / "networks/shared/weights.pt").read_bytes()
    result = bmtas("train", "--network", "shared", "--runs", path.parent)
    assert result.code == 0
    assert "trained already" in result.err
    assert (path / "networks/shared/weights.pt").read_bytes() == before
    assert not (path / "networks/shared/history.jsonl").exists()


# What the device role must do without: the extra `host`, apart from the ONNX runtime.
HEAVY = ("torch", "torchvision", "torchmetrics", "fvcore", "onnx", "onnxscript", "PIL", "yaml", "scipy", "safetensors")


def modules_after(*arguments: object) -> tuple[int, set[str]]:
    """Run a command in a process of its own; return its exit code and which heavy modules it has imported."""
    code = (
        "import sys, json\nfrom cli.main import run\ncode = run(sys.argv[1:])\n"
        f"print('\\n' + json.dumps([code, [m for m in {HEAVY} if m in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    exit_code, heavy = json.loads(done.stdout.splitlines()[-1])
    return exit_code, set(heavy)


def test_show_needs_nothing_heavy(tiny_run: Any) -> None:
    assert modules_after("show", "--json", "-", "--runs", tiny_run.root) == (0, set())


def test_bench_of_a_file_needs_nothing_heavy(tiny_run: Any) -> None:
    file = tiny_run.path / "networks/shared/model.onnx"
    assert modules_after("bench", file, "--samples", "2", "--warmup", "0") == (0, set())


def test_bench_leaves_pytorch_to_its_worker(copied_run: Callable[..., Path]) -> None:
    path = copied_run(
        "run.json", "table.json", "architecture.json", "networks/shared/weights.pt", "networks/shared/model.onnx"
    )
    code, heavy = modules_after(
        "bench", "--network", "shared", "--samples", "3", "--warmup", "0", "--eager", "--runs", path.parent
    )
    assert (code, heavy) == (0, set())
    report = read(path / "bench.json")
    runtimes = {r["runtime"].split()[0]: r for r in report["results"]}
    assert set(runtimes) == {"onnxruntime", "eager"}
    medians = {name: np.median(result["compute"]["latencies_ms"]) for name, result in runtimes.items()}
    (ratio,) = report["ratios"]
    assert (ratio["first"], ratio["second"]) == ("shared/eager", "shared/onnxruntime")
    assert ratio["ratio"] == pytest.approx(medians["eager"] / medians["onnxruntime"], rel=1e-12)
