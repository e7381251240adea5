"""A picture as inline SVG: elements of escaped text, and axes with round numbers. Colours are those of the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

COLOURS = 8
"""So many tasks have a colour of their own (`--task-0` ... in the style sheet); further ones begin anew and are told apart by their labels."""
_CHARACTER = 7.6
"""Pixels that a character takes at the font size of pictures, at most."""


class Svg:
    """Collects elements; lengths are pixels of a picture `width` x `height`."""

    def __init__(self, identifier: str, width: float, height: float, title: str, description: str) -> None:
        self.identifier, self.width, self.height = identifier, width, height
        self._title, self._description = title, description
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, style: str, tip: str = "") -> None:
        """Draw a rectangle of the class `style`; `tip` is shown where the pointer rests on it."""
        box = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        self._add("rect", box, style, tip)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """Draw a straight line."""
        self._add("line", f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"', style)

    def path(self, data: str, style: str) -> None:
        """Draw a path."""
        self._add("path", f'd="{escape(data)}"', style)

    def polyline(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw a line through points."""
        self._add("polyline", f'points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"', style)

    def circle(self, x: float, y: float, radius: float, style: str, tip: str = "") -> None:
        """Draw a disc."""
        self._add("circle", f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"', style, tip)

    def text(self, x: float, y: float, text: str, style: str = "ink", anchor: str = "start") -> None:
        """Write text; `anchor` is start, middle or end."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{escape(style)}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def _add(self, name: str, attributes: str, style: str, tip: str = "") -> None:
        inner = f"<title>{escape(tip)}</title></{name}>" if tip else f"</{name}>"
        self._parts.append(f'<{name} {attributes} class="{escape(style)}">{inner}')

    def markup(self) -> str:
        """Return the picture with its title and description, ready to stand in a page."""
        name = escape(self.identifier)
        return (
            f'<svg role="img" aria-labelledby="{name}-t {name}-d" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'width="{self.width:.0f}" height="{self.height:.0f}" xmlns="http://www.w3.org/2000/svg">'
            f'<title id="{name}-t">{escape(self._title)}</title><desc id="{name}-d">{escape(self._description)}</desc>'
            f"{''.join(self._parts)}</svg>"
        )


def task_style(index: int) -> str:
    """Return the class of what is in the colour of the task at `index`."""
    return f"task-{index % COLOURS}"


def text_width(text: str, *, small: bool = False) -> float:
    """Return how many pixels a text takes at most."""
    return (0.9 if small else 1.0) * _CHARACTER * len(text)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers from at most `low` to at least `high`."""
    span = high - low
    if not span > 0:
        span = abs(high) or 1.0
        low, high = low - span / 2, high + span / 2
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]
