"""The results as rows: for the terminal, for CSV, for Markdown. All show the same numbers."""

from __future__ import annotations

import csv
import io

from export.bench.report import Energy, Report, Result, Stats

TOO_FEW = "too few"


def header(report: Report) -> list[str]:
    """Return the names of the columns. What is the same in all rows stands in the title, what nothing measures in the remarks."""
    names = ["network", *_varying(report), "samples", "median ms", "interval", *_percentiles(report)]
    if report.settings.fps:
        names += ["compute ms", "misses", "dropped"]
    elif any(r.end_to_end is not None for r in report.results):
        names.append("end to end ms")
    if any(r.frames is not None for r in report.results) and not report.settings.fps:
        names.append("worst frame ms")
    if any(r.energy.gross_mj is not None for r in report.results):
        names.append("energy mJ")
    return [*names, "stable"]


def _varying(report: Report) -> list[str]:
    told = rows(report)
    return [name for name in ("runtime", "precision", "threads") if len({row[name] for row in told}) > 1]


def rows(report: Report) -> list[dict[str, str]]:
    """Return one row per result; what is missing says so."""
    return [_row(report, result) for result in report.results]


def title(report: Report) -> str:
    """Return the head of the table."""
    pace = [f"frames at {report.settings.fps:g} per second"] if report.settings.fps else []
    batches = sorted({result.input_shape[0] for result in report.results})
    row, varying = rows(report)[0], _varying(report)
    same = [row[name] for name in ("runtime", "precision") if name not in varying]
    threads = [] if "threads" in varying or not report.results[0].threads else [f"threads {row['threads']}"]
    told = [*same, *threads, f"batch {' and '.join(map(str, batches))}", *pace]
    return f"latency, {', '.join(told)}; {report.device.title}"


def remarks(report: Report) -> list[str]:
    """Return what must be said beside the table: what was not met, energy that is missing, outliers, ratios, notes."""
    found = [f"not met: {text}" for text in report.unmet()]
    reasons = {r.energy.unavailable for r in report.results if r.energy.unavailable}
    found += [f"energy is unavailable: {reason}" for reason in sorted(reasons)]
    if report.conditions.throttled is None:
        found.append("whether clocks were lowered by heat or power cannot be told on this machine")
    for r in report.results:
        count = len(r.answers.outliers.positions)
        if count:
            found.append(
                f"{r.key}: {count} of {r.answers.samples} samples are outliers, above {r.answers.outliers.above_ms:.3g} ms; none was removed"
            )
    for ratio in report.ratios:
        interval = "" if ratio.low is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
        found.append(
            f"{ratio.first} takes {ratio.ratio:.2f}{interval} times as long as {ratio.second}: {report.verdict(ratio)}"
        )
    return [*found, *report.notes]


def as_markdown(report: Report) -> str:
    """Return the table, its remarks and the command that repeats it."""
    names = header(report)
    lines = [f"{title(report)}, {report.date}", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(row[name].replace('|', '/') for name in names)} |" for row in rows(report)]
    lines += ["", *(f"- {text}" for text in remarks(report))]
    if report.command is not None:
        lines += ["", f"    {report.command}"]
    return "\n".join(lines) + "\n"


def as_csv(report: Report) -> str:
    """Return the table with numbers in full: one line per result, a missing value is empty."""
    percentiles = _percentiles(report)
    names = [
        *("key", "network", "runtime", "provider", "precision", "threads", "samples", "median_ms", "low_ms", "high_ms"),
        *(name for p in percentiles for name in (f"{p}_ms", f"{p}_bound_ms")),
        *(
            "min_ms",
            "max_ms",
            "window_spread",
            "stable",
            "compute_median_ms",
            "end_to_end_median_ms",
            "misses",
            "dropped",
        ),
        *("energy_rail", "energy_gross_mj", "energy_net_mj"),
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for result in report.results:
        writer.writerow(_numbers(result, percentiles))
    return text.getvalue()


def _numbers(result: Result, percentiles: list[str]) -> dict[str, object]:
    sample, energy = result.answers, result.energy
    rail = energy.main_rail
    values: dict[str, object] = {
        **{name: getattr(result, name) for name in ("key", "network", "runtime", "provider", "precision", "threads")},
        **{name: getattr(sample, name) for name in ("samples", "median_ms", "low_ms", "high_ms", "min_ms", "max_ms")},
        "window_spread": sample.window_spread,
        "stable": sample.stable,
        "compute_median_ms": result.compute.median_ms,
        "end_to_end_median_ms": None if result.end_to_end is None else result.end_to_end.median_ms,
        "misses": None if result.paced is None else result.paced.misses,
        "dropped": None if result.paced is None else result.paced.dropped,
        "energy_rail": rail,
        "energy_gross_mj": None if rail is None or energy.gross_mj is None else energy.gross_mj.get(rail),
        "energy_net_mj": None if rail is None or energy.net_mj is None else energy.net_mj.get(rail),
    }
    for p in percentiles:
        values |= {f"{p}_ms": sample.percentiles[p].value_ms, f"{p}_bound_ms": sample.percentiles[p].bound_ms}
    return values


def _row(report: Report, result: Result) -> dict[str, str]:
    sample = result.answers
    interval = "too few" if sample.low_ms is None else f"{_ms(sample.low_ms)} to {_ms(sample.high_ms)}"
    values = {
        "network": result.network,
        "runtime": f"{result.runtime} {result.provider.removesuffix('ExecutionProvider').lower()}",
        "precision": result.precision,
        "threads": str(result.threads or "free"),
        "samples": str(sample.samples),
        "median ms": _ms(sample.median_ms),
        "interval": interval,
        "compute ms": _ms(result.compute.median_ms),
        "end to end ms": "-" if result.end_to_end is None else _ms(result.end_to_end.median_ms),
        "worst frame ms": "-" if result.frames is None else _ms(result.frames.worst_ms),
        "misses": "-" if result.paced is None else str(result.paced.misses),
        "dropped": "-" if result.paced is None else str(result.paced.dropped),
        "energy mJ": _energy(result.energy),
        "stable": _stable(sample),
    }
    for name in _percentiles(report):
        value = sample.percentiles[name].value_ms
        values[name] = (
            f"{TOO_FEW} ({sample.samples}/{sample.percentiles[name].needed})" if value is None else _ms(value)
        )
    return values


def _percentiles(report: Report) -> list[str]:
    return [name for name in report.results[0].answers.percentiles if name != "p50"]


def _stable(sample: Stats) -> str:
    spread = "" if sample.window_spread is None else f" {sample.window_spread:.1%}"
    return f"{'yes' if sample.stable else 'no'}{spread}"


def _energy(energy: Energy) -> str:
    if energy.gross_mj is None or energy.main_rail not in energy.gross_mj:
        return "unavailable"
    return f"{energy.gross_mj[energy.main_rail]:.3g} {energy.main_rail}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}" if value >= 1 else f"{value:.3f}"
