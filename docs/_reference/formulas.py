"""Formulas as MathML, which browsers show without scripts: TeX becomes it when the site is built."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def as_mathml(page: str) -> str:
    """Return the HTML of a page with its formulas as MathML."""
    page = _BLOCK.sub(lambda found: f'<div class="formula">{_converted(found[1], "block")}</div>', page)
    return _INLINE.sub(lambda found: _converted(found[1], "inline"), page)


def _converted(tex: str, display: str) -> str:
    return str(convert(html.unescape(tex).strip(), display=display))
