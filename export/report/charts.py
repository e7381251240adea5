"""Charts over numbers of a run, drawn as SVG: a gauge of costs, lines over steps, samples of latencies, points of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from export.report.svg import COLOURS, Svg, text_width, ticks

_WIDTH = 720.0
_MOST_DOTS = 300
"""So many samples of a row are drawn one by one; of more, as many quantiles of them."""


@dataclass(frozen=True)
class Bar:
    """A value of a chart of bars with its name; `text` is how it is written, `strong` marks the one that matters."""

    name: str
    value: float
    text: str
    strong: bool = False


@dataclass(frozen=True)
class Sample:
    """Measured values in the order in which they were taken, with what a report says of them; `low` to `high` is where the median lies."""

    name: str
    values: Sequence[float]
    median: float
    q1: float
    q3: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Point:
    """A point of a scatter with its deviation upwards and downwards, 0 for none; points of one `series` are joined."""

    series: str
    x: float
    y: float
    deviation: float
    tip: str


def bar_chart(identifier: str, title: str, bars: Sequence[Bar], limit: Bar | None) -> str:
    """Return a bar per value from 0 on, narrow enough for a telephone, and an upright line through all of them at `limit`."""
    row, width = 30.0, 430.0
    top = 6.0 if limit is None else 26.0
    everything = [*bars, *([] if limit is None else [limit])]
    told = "; ".join(f"{bar.name} {bar.text}" for bar in everything)
    svg = Svg(identifier, width, top + row * len(bars) + 4, title, told)
    left = max(text_width(bar.name) for bar in bars) + 8
    room = width - left - max(text_width(bar.text) for bar in bars) - 10
    scale = room / (max(bar.value for bar in everything) or 1.0)
    for number, bar in enumerate(bars):
        y, style = top + row * number, "ink strong" if bar.strong else "ink"
        svg.text(0, y + 19, bar.name, style)
        svg.rect(left, y + 5, bar.value * scale, row - 10, "bar" if bar.strong else "bar other")
        svg.text(width, y + 19, bar.text, style, "end")
    if limit is not None:
        x = left + limit.value * scale
        svg.line(x, top - 4, x, top + row * len(bars), "limit")
        label = f"{limit.name} {limit.text}"
        start = min(max(x - text_width(label) / 2, 0), width - text_width(label))
        svg.text(start, 14, label, "ink")
    return svg.markup()


def line_chart(
    identifier: str,
    title: str,
    points: Sequence[tuple[float, float]],
    limits: Sequence[tuple[str, float]],
    unit: str,
    x_label: str,
) -> str:
    """Return a line through `points`, and levels with their names, over axes with round numbers; the y axis begins at 0."""
    last, most = points[-1], max([y for _, y in points] + [value for _, value in limits])
    told = ", ".join(f"{name} {value:.3g} {unit}" for name, value in limits)
    described = (
        f"From {points[0][1]:.3g} {unit} at step {points[0][0]:g} to {last[1]:.3g} {unit} at step {last[0]:g}. {told}"
    )
    svg = Svg(identifier, _WIDTH, 270, title, described)
    axes = _Axes(svg, (points[0][0], last[0]), (0.0, most), x_label, unit)
    levels: list[float] = []
    for name, value in sorted(limits, key=lambda limit: -limit[1]):
        y = axes.y(value)
        svg.line(axes.left, y, axes.right, y, "limit" if name.startswith("budget") else "reference")
        label_y = y - 5 if not levels or y - 5 - levels[-1] >= 14 else y + 14
        levels.append(label_y)
        svg.text(axes.right - 4, label_y, name, "small strong" if name.startswith("budget") else "small", "end")
    places = [(axes.x(x), axes.y(y)) for x, y in points]
    svg.polyline(places, "series")
    if len(places) <= 60:
        for (x, y), (step, value) in zip(places, points, strict=True):
            svg.circle(x, y, 3, "dot", f"step {step:g}: {value:.4g} {unit}")
    return svg.markup()


class _Axes:
    """A frame with round numbers; `x` and `y` turn values into places."""

    left, right, top = 58.0, _WIDTH - 10, 28.0

    def __init__(self, svg: Svg, xs: tuple[float, float], ys: tuple[float, float], x_label: str, y_label: str) -> None:
        self.low = svg.height - 46
        y_ticks, x_ticks = ticks(*ys), [t for t in ticks(*xs) if xs[0] <= t <= xs[1]]
        self._x0, self._dx = xs[0], (self.right - self.left - 16) / ((xs[1] - xs[0]) or 1.0)
        self._y0, self._dy = y_ticks[0], (self.low - self.top) / (y_ticks[-1] - y_ticks[0])
        for tick in y_ticks:
            svg.line(self.left, self.y(tick), self.right, self.y(tick), "grid")
            svg.text(self.left - 6, self.y(tick) + 4, f"{tick:.4g}", "small", "end")
        for tick in x_ticks:
            svg.line(self.x(tick), self.low, self.x(tick), self.low + 4, "axis")
            svg.text(self.x(tick), self.low + 17, f"{tick:.5g}", "small", "middle")
        svg.line(self.left, self.low, self.right, self.low, "axis")
        svg.text((self.left + self.right) / 2, svg.height - 8, x_label, "small", "middle")
        svg.text(4, 12, y_label, "small")

    def x(self, value: float) -> float:
        return self.left + 8 + (value - self._x0) * self._dx

    def y(self, value: float) -> float:
        return self.low - (value - self._y0) * self._dy


def samples_chart(identifier: str, title: str, samples: Sequence[Sample]) -> str:
    """Return a row per sample: each value a dot, in the order of measuring from top to bottom, over quartiles, median and its interval."""
    row, top = 64.0, 8.0
    svg = Svg(
        identifier,
        _WIDTH,
        top + row * len(samples) + 44,
        title,
        "; ".join(f"{s.name}: median {s.median:.4g} ms, quartiles {s.q1:.4g} to {s.q3:.4g} ms" for s in samples),
    )
    left = min(max(text_width(s.name) for s in samples) + 16, 230)
    marks = ticks(0.0, max(max(s.values) for s in samples))
    scale = (_WIDTH - 24 - left) / marks[-1]
    low = top + row * len(samples)
    for tick in marks:
        svg.line(left + tick * scale, top, left + tick * scale, low, "grid")
        svg.text(left + tick * scale, low + 16, f"{tick:.4g}", "small", "middle")
    svg.text((left + _WIDTH - 24) / 2, low + 36, "ms for one inference", "small", "middle")
    for number, sample in enumerate(samples):
        y = top + row * number
        svg.text(4, y + row / 2 + 4, sample.name, "ink")
        svg.rect(left + sample.q1 * scale, y + 8, (sample.q3 - sample.q1) * scale, row - 16, "quartiles")
        shown = _thinned(sample.values)
        for place, value in enumerate(shown):
            svg.circle(left + value * scale, y + 12 + (row - 24) * (place + 0.5) / len(shown), 2.2, "dot faint")
        if sample.low is not None and sample.high is not None:
            first, last = (
                max(sample.low, 0.0),
                min(sample.high, marks[-1]),
            )  # by few samples it reaches further than times can
            svg.rect(left + first * scale, y + row / 2 - 3, (last - first) * scale, 6, "interval")
        svg.line(left + sample.median * scale, y + 6, left + sample.median * scale, y + row - 6, "median")
    return svg.markup()


def _thinned(values: Sequence[float]) -> Sequence[float]:
    """Return the values, or of too many as many quantiles, in order."""
    if len(values) <= _MOST_DOTS:
        return values
    ordered = sorted(values)
    return [ordered[round(i * (len(ordered) - 1) / (_MOST_DOTS - 1))] for i in range(_MOST_DOTS)]


def scatter(identifier: str, title: str, points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Return points with the names of their series beside them; those of one series are joined from left to right."""
    series: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.x):
        series.setdefault(point.series, []).append(point)
    xs = [point.x for point in points]
    lows, highs = [p.y - p.deviation for p in points], [p.y + p.deviation for p in points]
    svg = Svg(identifier, _WIDTH, 360, title, "; ".join(p.tip for p in points))
    axes = _Axes(svg, (0.0, max(xs) * 1.02), (min(*lows, 0.0), max(*highs, 0.0)), x_label, y_label)
    svg.line(axes.left, axes.y(0.0), axes.right, axes.y(0.0), "reference")
    places = {name: [(axes.x(p.x), axes.y(p.y)) for p in of_series] for name, of_series in series.items()}
    taken = [(x - 8, y - 6, x + 8, y + 6) for of_series in places.values() for x, y in of_series]
    for number, (name, of_series) in enumerate(series.items()):
        style = f"task-{number % COLOURS}"
        if len(of_series) > 1:
            svg.polyline(places[name], f"joined {style}")
        for (x, y), point in zip(places[name], of_series, strict=True):
            if point.deviation:
                svg.line(x, axes.y(point.y - point.deviation), x, axes.y(point.y + point.deviation), "axis")
            svg.circle(x, y, 5.5, f"{style} outlined", point.tip)
    for name, dots in places.items():
        start, at = _free_place(name, dots[-1], taken, axes)
        taken.append((start, at - 10, start + text_width(name, small=True), at + 3))
        svg.text(start, at, name, "small ink halo")
    return svg.markup()


def _free_place(
    name: str, point: tuple[float, float], taken: Sequence[tuple[float, float, float, float]], axes: _Axes
) -> tuple[float, float]:
    """Return where a name is written beside, above or below its point, so that it covers nothing if that can be had."""
    x, y = point
    width = text_width(name, small=True)
    starts = (x + 9, x - 9 - width, x - width / 2)
    for shift in (0, 15, -15, 30, -30, 45, -45, 60, -60):
        for start in starts:
            box = (start, y + 4 + shift - 10, start + width, y + 4 + shift + 3)
            inside = axes.left <= box[0] and box[2] <= axes.right and axes.top - 6 <= box[1] and box[3] <= axes.low
            if inside and not any(_overlap(box, other) for other in taken):
                return start, y + 4 + shift
    return starts[0], y + 4


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
