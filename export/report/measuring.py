"""What was measured of a run's networks: metrics, predictions, latency, and the proofs of exported files."""

from __future__ import annotations

import base64
import math
import struct
from pathlib import Path

from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.runs import FOUND, SEPARATE
from bmtas.summary import undefined_reason
from costs.units import Resource
from export.bench.report import Result
from export.bench.tables import header, remarks, rows, title
from export.proof.report import number_text
from export.report.blocks import (
    Block,
    Cell,
    Code,
    Details,
    Drawing,
    Facts,
    Image,
    Missing,
    Remark,
    Remarks,
    Table,
    cells,
)
from export.report.charts import Sample, samples_chart
from export.report.gather import Material, Network
from export.report.words import ABSENT, delta_text, metric_text, metric_title, quantity, size_text

_FEW = 6
"""So many remarks stand below a table; more are closed until they are asked for."""


def metric_blocks(told: Material) -> list[Block]:
    """Return the metrics and Delta_m of all networks, and what is not measured yet."""
    measured = [network for network in told.networks if network.metrics is not None]
    blocks: list[Block] = []
    if measured:
        blocks += [_metric_table(told), Remark(_measured_on(told, measured), "muted"), *_other_metrics(told, measured)]
        found = told.network(FOUND)
        if found is not None and found.metrics is not None and found.delta_m_percent is None:
            blocks.append(Remark(f"The network found has no Delta_m: {gain_reason(told)}."))
    without = [n for n in told.networks if n.metrics is None and not _damaged(told, n.folder / "metrics.json")]
    # Beside other runs, the networks that this one is compared with may be theirs.
    untrained = [n.name for n in without if not n.trained and (n.name == FOUND or not told.compared)]
    unmeasured = [network.name for network in without if network.trained]
    if untrained and told.ended:
        flag = "all" if not measured and FOUND in untrained else ",".join(n for n in untrained if n != "inherited")
        why = "; Delta_m is relative to the separate networks" if SEPARATE in untrained else ""
        blocks.append(Missing(f"Not trained: {', '.join(untrained)}{why}.", told.command("train", f"--network {flag}")))
    if unmeasured:
        names = ",".join(unmeasured)
        blocks.append(Missing(f"Trained, not measured: {names}.", told.command("evaluate", f"--network {names}")))
    return blocks or [Missing("Nothing is trained or measured yet.", told.command("train", "--network all"))]


def gain_reason(told: Material) -> str:
    """Return in a few words why the network found has no Delta_m."""
    found, base = told.network(FOUND), told.network(SEPARATE)
    if told.config.method is Method.SINGLE:
        return "these are the separate networks"
    if found is None or found.metrics is None:
        return "not measured"
    if told.compared:
        return "no single-task networks of this backbone among the runs"
    if base is None or base.metrics is None:
        return "separate networks not measured"
    if (found.metrics.size, found.metrics.images) != (base.metrics.size, base.metrics.images):
        return "separate networks measured on other images"
    values, relative = (
        {name: math.nan if entry.value is None else entry.value for name, entry in measured.tasks.items()}
        for measured in (found.metrics, base.metrics)
    )
    reason = undefined_reason(values, relative, told.tasks)
    return f"undefined, for {reason}" if reason else "undefined, for a metric is another than today's"


def _damaged(told: Material, path: Path) -> bool:
    return any(str(path) in problem for problem in told.problems)


def _metric_table(told: Material) -> Table:
    rows = []
    for network in told.networks:
        metrics = network.metrics
        values = [ABSENT if metrics is None else metric_text(metrics.tasks[t.name].value) for t in told.tasks]
        cost = quantity((network.costs or {}).get(Resource.MADDS.value), Resource.MADDS)
        name = Cell(network.name, strong=network.name == FOUND)
        rows.append(cells(name, cost, delta_text(network.delta_m_percent), *values))
    first = next(network.metrics for network in told.networks if network.metrics is not None)
    constants = [metric_text(first.tasks[task.name].best_constant) for task in told.tasks]
    rows.append(cells("best constant", ABSENT, ABSENT, *constants))
    head = ("network", "MAdds", "Delta_m\u00a0%\u00a0\u2191", *map(metric_title, told.tasks))
    return Table("Networks side by side, trained in the same way", head, tuple(rows))


def _measured_on(told: Material, measured: list[Network]) -> str:
    ways = {(network.metrics.images, network.metrics.size) for network in measured if network.metrics is not None}
    base = "the single-task networks of these runs" if told.compared else "the separate networks"
    where = " and ".join(f"{images} validation images at {size_text(size)}" for images, size in sorted(ways))
    apart = "" if len(ways) == 1 else ", so that the rows cannot all be compared"
    return (
        f"Measured on {where}{apart}; an arrow points to where better is. Delta_m is the mean relative gain over {base}. "
        "The best constant is the best prediction that is the same for every pixel or image."
    )


def _other_metrics(told: Material, measured: list[Network]) -> list[Block]:
    names = [(task.name, key) for task in told.tasks for key in _more(measured, task.name)]
    if not names:
        return []
    rows = []
    for task, key in names:
        values = [n.metrics.tasks[task].more.get(key) if n.metrics is not None else None for n in measured]
        rows.append(cells(f"{task} {key}", *map(metric_text, values)))
    table = Table("Further metrics", ("metric", *(n.name for n in measured)), tuple(rows))
    return [Details("Further metrics that publications report", (table,))]


def _more(measured: list[Network], task: str) -> list[str]:
    return list(dict.fromkeys(key for n in measured if n.metrics is not None for key in n.metrics.tasks[task].more))


def prediction_blocks(told: Material) -> list[Block]:
    """Return the sheets of predictions beside labels: that of the network found, the others on demand."""
    dense = [task.name for task in told.tasks if task.dense]
    if not dense:
        return [
            Remark(
                "All tasks give one answer for a whole image, and so no picture; the metrics tell how often it is right.",
                "muted",
            )
        ]
    shown = [(n.name, path) for n in told.networks if (path := n.predictions) is not None]
    blocks: list[Block] = []
    others: list[Block] = []
    for name, path in sorted(shown, key=lambda entry: entry[0] != FOUND):
        alt = f"Sample images of the validation split, one a row, as {name} sees them; beside each image, label and prediction of {', '.join(dense)}."
        columns = "image; then " + ", ".join(f"{task} label and prediction" for task in dense)
        try:
            image = embedded(path, alt, f"{name}. Columns: {columns}.", large=True)
        except UsageError as error:
            told.problems.append(str(error))
            blocks.append(Remark(str(error), "problem"))
            continue
        (others if blocks else blocks).append(image)
    if others:
        blocks.append(Details("The same images as the other networks see them", tuple(others)))
    flat = [task.name for task in told.tasks if not task.dense]
    if flat:
        blocks.append(Remark(f"One answer for the whole image, and so no picture: {', '.join(flat)}.", "muted"))
    if not shown:
        blocks.append(Missing("No predictions have been drawn yet.", told.command("train", "")))
    return blocks


def embedded(path: Path, alt: str, caption: str, *, large: bool = False) -> Image:
    """Return a PNG file as a data: URI with its size in pixels. Raises UsageError if it is none, or cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    if (
        not content.startswith(b"\x89PNG\r\n\x1a\n")
        or len(content) < 24
        or not content.rstrip().endswith(b"IEND\xaeB`\x82")
    ):
        raise UsageError(f"{path} is not a whole PNG; it was changed or cut short, make it anew")
    width, height = struct.unpack(">II", content[16:24])
    return Image(f"data:image/png;base64,{base64.b64encode(content).decode()}", alt, caption, width, height, large)


def latency_blocks(told: Material, identifier: str) -> list[Block]:
    """Return latencies with their distribution, on what they were measured, and whether they were stable."""
    bench = told.bench
    command = told.command("bench", "")
    if bench is None:
        if _damaged(told, told.run.path / "bench.json"):
            return [Remark("The latencies cannot be read: see the top of this page.", "problem")]
        exported = any(network.proofs for network in told.networks)
        text = told.bench_remark or "No latency has been measured yet."
        steps = command if exported else f"{told.command('export', '')} && {command}"
        return [Missing(text, steps)]
    names = header(bench)
    keyed = [cells(*(_bench_cell(name, row[name]) for name in names)) for row in rows(bench)]
    left = frozenset(i for i, name in enumerate(names) if name in ("network", "runtime", "precision"))
    blocks: list[Block] = [
        Table(title(bench)[0].upper() + title(bench)[1:], tuple(names), tuple(keyed), left),
        *_distribution(bench.results, identifier),
        *_remarks(remarks(bench)),
    ]
    device = bench.device
    facts = [
        ("device", device.title, ""),
        ("system", f"{device.system.os or 'unknown'}, Python {device.system.python}", ""),
        ("runtimes", ", ".join(f"{k} {v}" for k, v in device.runtimes.items()) or "none", ""),
        ("measured", f"{bench.date}, {bench.written_by}", ""),
    ]
    definitions = [Remark(text[0].upper() + text[1:], "muted") for text in bench.definitions]
    return [*blocks, Details("On what and how it was measured", (Facts(tuple(facts)), *definitions))]


def _remarks(texts: list[str]) -> list[Block]:
    if not texts:
        return []
    block = Remarks(tuple(texts))
    return [block] if len(texts) <= _FEW else [Details(f"{len(texts)} remarks on the measurement", (block,))]


def _bench_cell(name: str, text: str) -> Cell:
    if name == "stable":
        return Cell(text, tone="good" if text.startswith("yes") else "bad")
    return Cell(text)


def _distribution(results: list[Result], identifier: str) -> list[Block]:
    drawn = [result for result in results if result.answers.latencies_ms]
    blocks: list[Block] = []
    if drawn:
        samples = [
            Sample(
                r.key,
                r.answers.latencies_ms,
                r.answers.median_ms,
                r.answers.q1_ms,
                r.answers.q3_ms,
                r.answers.low_ms,
                r.answers.high_ms,
            )
            for r in drawn
        ]
        caption = (
            "Each dot is one inference, the first at the top of its row; of more than 300, as many quantiles. The band holds the middle half, "
            "the upright line is the median, and the dark bar is where the median lies at the confidence of the measurement."
        )
        blocks.append(Drawing(samples_chart(f"{identifier}-latency", "Latencies one by one", samples), caption))
    missing = [result.key for result in results if not result.answers.latencies_ms]
    if missing:
        blocks.append(Remark(f"bench.json holds no single samples of {', '.join(missing)}.", "muted"))
    return blocks


def parity_blocks(told: Material) -> list[Block]:
    """Return how far exported files are from PyTorch, per task and in its unit, and whether the proofs still hold."""
    rows, remarks_ = [], []
    for network in told.networks:
        for file, proof in network.proofs.items():
            holds = proof.passed and file not in network.changed
            for task, entry in proof.tasks.items():
                limit = f"{'at most' if entry.limit_is_most else 'at least'} {number_text(entry.limit)}"
                verdict = Cell("passed" if entry.passed and holds else "no longer holds" if entry.passed else "failed")
                tone = "good" if entry.passed and holds else "bad"
                rows.append(
                    cells(
                        network.name,
                        file,
                        Cell(task, (told.names.index(task),) if task in told.names else ()),
                        number_text(entry.value),
                        limit,
                        entry.unit,
                        Cell(verdict.text, tone=tone),
                    )
                )
            if file in network.changed:
                remarks_.append(Remark(network.changed[file], "problem"))
    damaged = [n.name for n in told.networks if _damaged(told, n.folder / "parity.json")]
    blocks: list[Block] = [
        Remark(f"The proofs of {name} cannot be read: see the top of this page.", "problem") for name in damaged
    ]
    unproved = [n.name for n in told.networks if n.trained and not n.proofs and n.name not in damaged]
    if rows:
        head = ("network", "file", "task", "value", "allowed", "unit", "verdict")
        blocks.append(Table("Exported files against PyTorch", head, tuple(rows), frozenset((0, 1, 2, 5, 6))))
        blocks.append(Remark(_proved_on(told), "muted"))
    blocks += remarks_
    if unproved:
        told_ = f"Trained, but not exported: {', '.join(unproved)}."
        blocks.append(Missing(told_, told.command("export", f"--network {','.join(unproved)}")))
    elif not rows and not damaged:
        blocks.append(
            Missing("Nothing is exported yet.", f"{told.command('train', '')} && {told.command('export', '')}")
        )
    return [*blocks, *_engines(told)]


def _proved_on(told: Material) -> str:
    ways = {
        f"on {p.images} validation images in {p.runtime or 'its runtime'}"
        for n in told.networks
        for p in n.proofs.values()
    }
    return (
        f"Each file was run {'; '.join(sorted(ways))}, and compared with the trained network, before it got its name."
    )


def _engines(told: Material) -> list[Block]:
    """Say how to read the proofs that TensorRT engines bring themselves."""
    folders = [path for network in told.networks for path in sorted(network.folder.glob("*.tensorrt"))]
    if not folders:
        return []
    lines = "\n".join(f"bmtas check {path}" for path in folders)
    return [Code(lines, "TensorRT engines carry their proofs beside them; these commands read them")]
