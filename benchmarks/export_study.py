"""What export keeps of trained trees: parity per precision and runtime, and whether INT8 is faster and good enough.

    python benchmarks/export_study.py [--folder runs/export-study] [--out docs/export_results] [--sets ccp2,ccp4,scenes5]

Trains a random tree of 2 and 4 tasks on the photographs of ccp and of 5 tasks on the generated scenes, with MobileNetV2 and
ResNet-50, exports each in every precision to ONNX and OpenVINO with the commands of the README, and writes what they reported as
Markdown, and as JSON into the folder. INT8 is measured against FP32 in turn, on the runtime itself. A run that is there already is taken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bmtas.files import write_json, write_text
from bmtas.runs import FOUND, all_runs
from costs.units import Resource, format_quantity

BMTAS = str(Path(sys.executable).with_name("bmtas"))
CCP = str(Path(__file__).resolve().parent.parent / "examples" / "ccp.yaml")
SETS = {
    "ccp2": ["--data", CCP, "--tasks", "semseg,edge"],
    "ccp4": ["--data", CCP],
    "scenes5": ["--data", "scenes", "--tasks", "semseg,depth,normals,saliency,edge"],
}
STEPS = {"mobilenet_v2": 200, "resnet50": 60}
SIZE = "128x192"
_EXPORTS = (("onnx,openvino", "fp32,bf16,int8"), ("onnx", "fp16"))


def call(*arguments: str, may_refuse: bool = False) -> None:
    """Run one command of bmtas; exit code 4, INT8 refused, is an answer where `may_refuse` says so."""
    print(" ".join(["bmtas", *arguments]), flush=True)
    code = subprocess.run([BMTAS, *arguments, "--quiet"], stdout=subprocess.DEVNULL, check=False).returncode
    if code and not (may_refuse and code == 4):
        raise SystemExit(f"bmtas {' '.join(arguments)} ended with {code}")


def prepared(folder: Path, backbone: str, name: str, weights: str) -> Path:
    """Return the run of one tree, searched and trained where it is not yet; its network is `found`."""
    runs = folder / f"{backbone}-{name}"
    if not all_runs(runs):
        size = ["--size", SIZE, "--train-size", SIZE, "--batch-size", "4", "--train-steps", str(STEPS[backbone])]
        chosen = ["--method", "random", "--seed", "1", "--backbone", backbone, "--weights", weights]
        call("search", *chosen, *SETS[name], *size, "--runs", str(runs))
    if FOUND not in all_runs(runs)[0].trained():
        call("train", "--runs", str(runs))
    return runs


def exported(runs: Path, images: int, score_images: int) -> None:
    """Export one run in all precisions."""
    limits = ["--images", str(images), "--score-images", str(score_images), "--runs", str(runs)]
    for formats, precisions in _EXPORTS:
        call("export", "--format", formats, "--precision", precisions, *limits, may_refuse=True)


def collected(runs: Path) -> dict[str, Any]:
    """Return the proofs and the INT8 reports of one exported run."""
    run = all_runs(runs)[0]
    folder = run.network(FOUND)
    proofs = json.loads((folder / "parity.json").read_text(encoding="utf-8"))["artefacts"]
    reports = {
        runtime: json.loads((folder / f"model.int8{suffix}.report.json").read_text(encoding="utf-8"))
        for runtime, suffix in (("onnxruntime", ""), ("openvino", ".openvino"))
        if (folder / f"model.int8{suffix}.report.json").exists()
    }
    costs = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    return {"run": run.name, "tasks": costs["tasks"], "proofs": proofs, "int8": reports, "madds": costs_of(run)}


def costs_of(run: Any) -> float:
    """Return the multiply-adds of the tree."""
    return float(run.read_result(run.architecture_path)["costs"]["madds"])


def parity_rows(results: dict[str, Any]) -> Iterator[str]:
    """Yield one row per network, file and precision: each task's difference in its unit, and the raw one of FP32."""
    yield "| network | file | largest raw difference | each task, in its unit |\n|---|---|---|---|"
    for name, result in results.items():
        for file, proof in sorted(result["proofs"].items()):
            if "tasks" not in proof:
                continue
            raw = max(entry.get("max_scaled_difference", 0.0) for entry in proof["tasks"].values())
            told = "; ".join(f"{t} {e['value']:.2g} {e['unit']}" for t, e in proof["tasks"].items())
            yield f"| {name} | {file} | {raw:.1e} | {told} |"


def int8_rows(results: dict[str, Any]) -> Iterator[str]:
    """Yield one row per network and runtime: speed against FP32, loss per task, what stayed above 8 bits, the verdict."""
    yield "| network | runtime | FP32 / INT8 (quartiles) | loss of each task's metric | parts above 8 bits | written |\n|---|---|---|---|---|---|"
    for name, result in results.items():
        for report in result["int8"].values():
            speed = report["speed"]["fp32_over_int8"]
            lost = "; ".join(f"{t} {_percent(d)}" for t, d in report["decision"]["drops"].items())
            ratio = f"{speed['median']:.2f} ({speed['q1']:.2f} to {speed['q3']:.2f})"
            kept = len(report["kept_in_higher_precision"])
            verdict = "yes" if report["decision"]["keep"] else "no: " + "; ".join(report["decision"]["reasons"])
            yield f"| {name} | {report['speed']['runtime']} | {ratio} | {lost} | {kept} | {verdict} |"


def _percent(share: float | str | None) -> str:
    return f"{100 * share:.2f} %" if isinstance(share, float) else str(share)


def main() -> None:
    """Run the study and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/export-study"))
    parser.add_argument("--out", type=Path, default=Path("docs/export_results"), help="without suffix")
    parser.add_argument("--backbones", default="mobilenet_v2,resnet50")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--weights", default="none", help="imagenet, none or a file: what the trees are trained from")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--score-images", type=int, default=32)
    parser.add_argument("--collect", action="store_true", help="only write the tables of what was exported before")
    options = parser.parse_args()
    results = {}
    for backbone in options.backbones.split(","):
        for name in options.sets.split(","):
            runs = prepared(options.folder, backbone, name, options.weights)
            if not options.collect:
                exported(runs, options.images, options.score_images)
            results[f"{backbone} {name}"] = collected(runs)
    sizes = "; ".join(
        f"{n}: {len(r['tasks'])} tasks, {format_quantity(r['madds'], Resource.MADDS)}" for n, r in results.items()
    )
    scale = f"{SIZE}, weights {options.weights}, {options.images} images for parity, {options.score_images} for metrics"
    text = [
        f"Written by `python benchmarks/export_study.py`; {scale}. Trees: {sizes}.",
        "",
        *parity_rows(results),
        "",
        *int8_rows(results),
        "",
    ]
    write_text(options.out.with_suffix(".md"), "\n".join(text))
    write_json(options.folder / "results.json", {"schema_version": 1, "results": results})


if __name__ == "__main__":
    main()
