"""The reference of the Python interface: the public names of `bmtas` and `costs`, described by mkdocstrings."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

_GROUPS = (
    (
        "bmtas",
        "The commands as functions, what they return, and how to bring a backbone or a kind of task. [How to use it](../python.md).",
    ),
    (
        "costs",
        "Cost tables, exact expected costs, decoding under a budget. Nothing here knows networks. [The method](../method.md).",
    ),
)


def homes(package: str) -> dict[str, str]:
    """Return where each public name of a package is defined, in the package's own order."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    lines = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package)
    ]
    found = {alias.name: f"{line.module}.{alias.name}" for line in lines for alias in line.names}
    return {name: found[name] for name in module.__all__}


def page() -> str:
    """Return the page, one section per package."""
    lines = ["# Python", ""]
    for package, told in _GROUPS:
        lines += [f"## {package} {{ #package-{package} }}", "", told, ""]
        for name, place in homes(package).items():
            lines += [f'<a id="{package}-{name}"></a>', "", f"::: {place}", "    options: {heading_level: 3}", ""]
    return "\n".join(lines)
