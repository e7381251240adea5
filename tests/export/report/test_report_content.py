"""What a report says is what the files of the run say."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

Made = Any
Copy = Callable[..., Made]


def test_the_answer_is_the_cost_against_the_budget(made: Copy) -> None:
    run = made(1)
    answer, page = run.report()
    assert answer.code == 0
    assert answer.out.strip() == str(run.path / "report.html")
    madds = run.json("architecture.json")["costs"]["madds"]
    table = run.json("table.json")
    layers = sum(layer["per_group"]["madds"] for layer in table["layers"])
    fixed = {part["name"]: part["cost"]["madds"] for part in table["fixed"]}
    heads = sum(cost for name, cost in fixed.items() if name != "stem")
    shared, separate = layers + fixed["stem"] + heads, 4 * (layers + fixed["stem"]) + heads
    assert (
        f"The network found costs {madds / 1e6:.2f} MMAdds, {madds / 4.2e6:.1%} of the budget of 4.2MMAdds; "
        f"all shared {shared / 1e6:.2f} MMAdds, separate networks {separate / 1e6:.2f} MMAdds."
    ) in page.text
    assert page.row("Costs of one pass", "separate")["MAdds"] == f"{separate / 1e6:.2f} MMAdds"


def test_metrics_and_delta_m_are_those_of_the_files(made: Copy) -> None:
    run = made(1)
    _, page = run.report()
    files = {name: run.json(f"networks/{name}/metrics.json")["tasks"] for name in ("found", "shared", "separate")}
    for name, tasks in files.items():
        row = page.row("Networks side by side", name)
        for task in ("a1", "a2", "b1", "b2"):
            assert row[f"{task} mean_angle_deg\u00a0\u2193"] == f"{tasks[task]['value']:.2f}"
        # All four are angles, of which less is better: paper, Eq. 7.
        gains = [1 - tasks[t]["value"] / files["separate"][t]["value"] for t in tasks]
        assert row["Delta_m\u00a0%\u00a0\u2191"] == f"{100 * sum(gains) / 4:+.2f}"
    constant = page.row("Networks side by side", "best constant")
    assert constant["a1 mean_angle_deg\u00a0\u2193"] == f"{files['found']['a1']['best_constant']:.2f}"


def test_boxes_of_the_tree_are_as_long_as_their_costs(made: Copy) -> None:
    run = made(1)
    _, page = run.report()
    groupings = run.json("architecture.json")["groupings"]
    table = run.json("table.json")
    widths = [float(found["width"]) for found in page.styled("rect", "box")]
    partings = sum(after != before for before, after in pairwise(groupings))
    spans = [g for i, g in enumerate(groupings) if i == 0 or g != groupings[i - 1]]
    assert len(spans) == partings + 1
    assert len(widths) == 1 + sum(map(len, spans)) + 4  # the stem, the groups of each span, the heads
    whole = sum(len(g) * layer["per_group"]["madds"] for g, layer in zip(groupings, table["layers"], strict=True))
    whole += sum(part["cost"]["madds"] for part in table["fixed"])
    stem = next(part["cost"]["madds"] for part in table["fixed"] if part["name"] == "stem")
    assert min(widths) > 3.0  # otherwise one is drawn longer than it is
    assert widths[0] / sum(widths) == pytest.approx(stem / whole, abs=0.001)
    assert whole == run.json("architecture.json")["costs"]["madds"]


def test_costs_by_task_add_up_to_the_network(made: Copy) -> None:
    run = made(1)
    _, page = run.report()
    madds = run.json("architecture.json")["costs"]["madds"]
    whole = page.row("MAdds by task", "the network")
    assert whole["a network of this task alone"] == f"{madds / 1e6:.2f} MMAdds"
    table = run.json("table.json")
    alone = sum(layer["per_group"]["madds"] for layer in table["layers"])
    alone += sum(p["cost"]["madds"] for p in table["fixed"] if p["name"] in ("stem", "heads.a1"))
    assert page.row("MAdds by task", "a1")["a network of this task alone"] == f"{alone / 1e6:.2f} MMAdds"


def test_the_search_is_drawn_from_its_history(made: Copy) -> None:
    run = made(1)
    _, page = run.report()
    lines = (run.path / "search/history.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, lines) if "expected.madds" in record]
    assert len(page.styled("circle", "dot")) - len(page.styled("circle", "faint")) == len(steps)
    first, last = steps[0], steps[-1]
    assert (
        f"From {first['expected.madds'] / 1e6:.3g} MMAdds at step {first['step']} to "
        f"{last['expected.madds'] / 1e6:.3g} MMAdds at step {last['step']}"
    ) in page.text
    assert (
        len(page.tables["What the probabilities promised, layer by layer, before the network was taken from them"])
        == 1 + 6
    )


def test_latency_and_its_samples_are_those_of_the_file(made: Copy) -> None:
    run = made(1)
    _, page = run.report()
    bench = run.json("bench.json")
    result = bench["results"][0]["compute"]
    assert len(result["latencies_ms"]) == 12
    assert len(page.styled("circle", "faint")) == 12
    row = page.row("Latency", "found")
    assert row["samples"] == "12"
    assert float(row["median ms"]) == pytest.approx(result["median_ms"], abs=6e-4, rel=1e-3)
    assert bench["device"]["title"] in page.text
    assert f"p90 needs 64 samples at 99% confidence, there are {len(result['latencies_ms'])}" in page.text


def test_proofs_are_told_per_task_and_end_with_the_weights(made: Copy) -> None:
    run = made(1)
    _, page = run.report()
    proof = run.json("networks/found/parity.json")["artefacts"]["model.onnx"]
    rows = page.tables["Exported files against PyTorch"][1:]
    assert [row[2] for row in rows] == ["a1", "a2", "b1", "b2"]
    for row in rows:
        entry = proof["tasks"][row[2]]
        assert row[3] == f"{entry['value']:.2g}"
        assert row[4:] == ["at most 0.05", "mean angle, degrees", "passed"]
    with (run.path / "networks/found/weights.pt").open("ab") as weights:
        weights.write(b"trained on")
    _, page = run.report()
    assert {row[6] for row in page.tables["Exported files against PyTorch"][1:]} == {"no longer holds"}
    assert "the network was trained anew since; export it again" in page.text


def test_predictions_and_configuration_are_embedded_whole(made: Copy) -> None:
    run = made(1)
    _, page = run.report()
    uris = [found["src"] for name, found in page.elements if name == "img"]
    assert (
        base64.b64decode(uris[0].removeprefix("data:image/png;base64,"))
        == (run.path / "networks/found/predictions.png").read_bytes()
    )
    assert len(uris) == 3
    text = page.text[page.text.index("run.json, the configuration as resolved") :]
    resolved = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert resolved == run.json("run.json")


def test_a_run_that_has_only_been_searched_says_what_would_fill_it(made: Copy) -> None:
    run = made(3)
    answer, page = run.report()
    assert answer.code == 0
    assert f"bmtas train --network all --run {run.path}" in page.text
    assert f"bmtas export --run {run.path} && bmtas bench --run {run.path}" in page.text
    assert [text for _, text in page.headings][1:] == [
        *("The question", "The network found", "Metrics", "Predictions beside labels", "Costs by task and layer"),
        *("The search", "Latency", "Proof of the exported files", "To make it again"),
    ]
    assert "not measured" in page.text
    assert "not exported" in page.text


def test_a_search_under_way_is_reported_with_the_command_that_goes_on(made: Copy) -> None:
    run = made(3)
    (run.path / "architecture.json").unlink()
    (run.path / "search/probabilities.json").unlink()
    answer, page = run.report()
    assert answer.code == 0
    assert "The search has not ended; the same command goes on where it stopped." in page.text
    assert "bmtas search --data planted --tasks a1,a2,b1,b2 --backbone tiny --budget 4.6MMAdds" in page.text


def test_a_search_without_a_network_within_the_budget_says_so(made: Copy) -> None:
    run = made(3)
    (run.path / "architecture.json").unlink()
    (run.path / "search/trials.json").write_text(json.dumps({"schema_version": 1, "trials": []}), encoding="utf-8")
    answer, page = run.report()
    assert answer.code == 0
    assert "no network that was measured is within 4.6MMAdds" in page.text
    assert f"bmtas decode --budget BUDGET --run {run.path}" in page.text


def test_a_network_that_is_no_tree_is_told_by_sets_of_tasks(made: Copy) -> None:
    run = made(4)
    answer, page = run.report()
    assert answer.code == 0
    rows = page.tables["What is computed for whom"][1:]
    assert len(page.styled("rect", "box")) == len(rows)
    assert "sampled policies" in page.text
    pictures = {path.read_bytes() for path in (run.path / "search").glob("*.png")}
    uris = [found["src"].removeprefix("data:image/png;base64,") for name, found in page.elements if name == "img"]
    assert len(pictures) > 0
    assert {base64.b64decode(uri) for uri in uris} == pictures


def test_what_people_have_named_is_escaped(made: Copy) -> None:
    run = made(1, "001-<b>bold&\"1'")
    config = run.json("run.json")
    config["data"] = "/data/<script>alert('1')</script>&\"x\".yaml"
    (run.path / "run.json").write_text(json.dumps(config), encoding="utf-8")
    (run.path / "bench.json").write_text("{", encoding="utf-8")  # its message names the path
    answer, page = run.report()
    assert answer.code == 2
    assert "<script" not in page.source
    assert "<b>" not in page.source
    assert [found for name, found in page.elements if name in ("script", "b")] == []
    assert config["data"] in page.text
    assert page.headings[0] == (1, run.path.name)


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("networks/shared/metrics.json", "Exported files against PyTorch"),
        ("networks/found/parity.json", "Networks side by side"),
        ("networks/found/predictions.png", "Networks side by side"),
        ("bench.json", "Networks side by side"),
        ("architecture.json", "Exported files against PyTorch"),
        ("search/probabilities.json", "Networks side by side"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_told(made: Copy, name: str, stays: str) -> None:
    run = made(1)
    path = run.path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    answer, page = run.report()
    assert answer.code == 2
    assert name in answer.err
    assert name in page.text[page.text.index("Not everything could be read") :]
    assert any(title.startswith(stays) for title in page.tables)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("networks/found/metrics.json", {"schema_version": 1}),
        ("networks/found/parity.json", {"schema_version": 2, "artefacts": {"model.onnx": {}}}),
        ("bench.json", {"schema_version": 2}),
        ("architecture.json", {"schema_version": 1}),
        ("search/probabilities.json", {"schema_version": 1}),
    ],
)
def test_a_file_without_its_content_is_named(made: Copy, name: str, change: dict[str, Any]) -> None:
    run = made(1)
    (run.path / name).write_text(json.dumps(change), encoding="utf-8")
    answer, page = run.report()
    assert answer.code == 2
    assert name in page.text


@pytest.mark.parametrize("name", ["run.json", "table.json"])
def test_without_configuration_or_costs_there_is_no_report(made: Copy, bmtas: Callable[..., Any], name: str) -> None:
    run = made(3)
    (run.path / name).write_text("{", encoding="utf-8")
    answer = bmtas("report", run.path)
    assert answer.code == 2
    assert name in answer.err
    assert not (run.path / "report.html").exists()


def test_json_says_what_is_missing(made: Copy, bmtas: Callable[..., Any]) -> None:
    run = made(3)
    answer = bmtas("report", run.path, "--json", "-")
    content = json.loads(answer.out)
    assert content["schema_version"] == 1
    assert content["report"] == str(run.path / "report.html")
    assert [entry["command"].split()[1] for entry in content["missing"]] == ["train", "train", "export", "train"]
    assert content["problems"] == []


def test_a_folder_is_no_place_for_a_report(made: Copy, bmtas: Callable[..., Any]) -> None:
    run = made(3)
    answer = bmtas("report", run.path, "--output", run.path)
    assert answer.code == 2
    assert "is a folder; name a file in it" in answer.err


def test_several_runs_share_one_file(
    reported_runs: Any, tmp_path: Any, bmtas: Callable[..., Any], parsed: Callable[..., Any]
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(reported_runs, root, ignore=shutil.ignore_patterns("checkpoint*.pt", "report.html"))
    answer = bmtas("report", 1, 2, 3, 2, "--runs", root)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(root / "report.html")
    page = parsed(root / "report.html")
    names = {path.name[:3]: path.name for path in root.iterdir() if path.is_dir()}
    rows = page.tables["Networks of all runs, the cheapest first"]
    assert sorted(row[0] for row in rows[1:]) == sorted([names["001"]] * 3 + [names["002"], names["003"]])
    singles = json.loads((root / names["001"] / "networks/separate/metrics.json").read_text())["tasks"]
    vanilla = json.loads((root / names["002"] / "networks/found/metrics.json").read_text())["tasks"]
    gain = 25 * sum(1 - vanilla[t]["value"] / singles[t]["value"] for t in singles)
    told = next(dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row[0] == names["002"])
    assert told["Delta_m\u00a0%\u00a0\u2191"] == f"{gain:+.2f}"
    assert len(page.styled("circle", "outlined")) == 4  # single, shared, vanilla, branched: a point each
    assert [text for level, text in page.headings if level == 2][1:] == [names[n] for n in ("001", "002", "003")]


def test_runs_that_cannot_be_compared_are_told_side_by_side(
    made: Copy, tmp_path: Any, bmtas: Callable[..., Any], parsed: Callable[..., Any]
) -> None:
    one, other = made(1), made(2)
    config = other.json("run.json")
    config["data_fingerprint"] = "another"
    (other.path / "run.json").write_text(json.dumps(config), encoding="utf-8")
    answer = bmtas("report", one.path, other.path, "--output", tmp_path / "both.html")
    assert answer.code == 0
    page = parsed(tmp_path / "both.html")
    assert "have different data" in page.text
    assert len(page.tables["Networks of all runs, the cheapest first"]) == 3
    assert any(title.startswith("Networks side by side") for title in page.tables)


def test_the_page_is_whole_and_its_links_lead_somewhere(
    reported_runs: Any, tmp_path: Any, bmtas: Callable[..., Any], parsed: Callable[..., Any]
) -> None:
    target = tmp_path / "all.html"
    assert bmtas("report", 1, 2, 3, 4, "--runs", reported_runs, "--output", target).code == 0
    page = parsed(target)
    assert page.open == []
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    links = [found["href"] for name, found in page.elements if name == "a"]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(found.get("scope") in ("col", "row") for name, found in page.elements if name == "th")
    assert all(found.get("alt") for name, found in page.elements if name == "img")
    assert "" not in page.tables
    assert [name for name, _ in page.elements if name == "script"] == []
    named = [found["aria-labelledby"].split() for name, found in page.elements if name == "svg"]
    assert named
    assert {name for names in named for name in names} <= set(ids)


def test_a_run_is_named_as_in_the_other_commands(reported_runs: Any, tmp_path: Any, bmtas: Callable[..., Any]) -> None:
    places = ("--runs", reported_runs, "--output", tmp_path / "one.html")
    assert bmtas("report", "--run", 2, *places).code == 0
    assert "002-" in (tmp_path / "one.html").read_text(encoding="utf-8")
    answer = bmtas("report", 1, "--run", 2, *places)
    assert answer.code == 2
    assert "--run 2 and RUN 1 both say which run is meant" in " ".join(answer.err.split())


def test_two_runs_of_one_name_keep_their_own_numbers(
    made: Copy, tmp_path: Any, bmtas: Callable[..., Any], parsed: Callable[..., Any]
) -> None:
    folders, values = [], (12.5, 37.25)
    for name, value in zip(("one", "two"), values, strict=True):
        copy = made(1, name)
        folder = tmp_path / "roots" / name / "001-same"
        shutil.copytree(copy.path, folder)
        metrics = json.loads((folder / "networks/found/metrics.json").read_text())
        first = next(iter(metrics["tasks"].values()))
        first["value"] = value
        (folder / "networks/found/metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        config = json.loads((folder / "run.json").read_text())
        config["seed"] = len(folders)
        (folder / "run.json").write_text(json.dumps(config), encoding="utf-8")
        folders.append(folder)
    answer = bmtas("report", *folders, "--output", tmp_path / "both.html")
    assert answer.code == 0, answer.err
    head, *rows = parsed(tmp_path / "both.html").tables["Networks of all runs, the cheapest first"]
    place = next(i for i, title in enumerate(head) if title.startswith("Delta_m")) + 1  # the first task's metric
    told = {row[0]: row[place] for row in rows if row[place] in ("12.50", "37.25")}
    assert told == {"one/001-same": "12.50", "two/001-same": "37.25"}


def test_a_report_replaces_no_file_that_is_none(made: Copy, bmtas: Callable[..., Any]) -> None:
    run = made(1)
    weights = run.path / "networks/found/weights.pt"
    before = weights.read_bytes()
    assert bmtas("report", run.path, "--output", weights).code == 2
    assert weights.read_bytes() == before
    assert bmtas("report", run.path, "--json", run.path / "report.html").code == 2
    assert not (run.path / "report.html").exists()
