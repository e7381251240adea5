"""What mkdocs does beside reading Markdown: the generated reference, the example files, and formulas without scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from _reference import commands, formulas, messages, names, schemas
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_SINGLE: dict[str, Callable[[], str]] = {
    "reference/errors.md": lambda: messages.page(ROOT),
    "reference/manifest.md": schemas.manifest_page,
    "reference/configuration.md": schemas.configuration_page,
    "reference/python.md": names.page,
}
_COMMANDS = "Commands"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation's section of commands."""
    for part in _sections(config.nav or []):
        if _COMMANDS in part:
            part[_COMMANDS] = list(commands.pages())
    return config


def _sections(nav: list[Any]) -> list[dict[str, Any]]:
    found = [part for part in nav if isinstance(part, dict)]
    inner = [value for part in found for value in part.values() if isinstance(value, list)]
    return found + [section for value in inner for section in _sections(value)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files of `examples/` that pages link to."""
    for path, content in {**commands.pages(), **{path: make() for path, make in _SINGLE.items()}}.items():
        files.append(File.generated(config, path, content=content))
    for example in sorted((ROOT / "examples").iterdir()):
        if example.is_file():
            files.append(File.generated(config, f"examples/{example.name}", abs_src_path=str(example)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to `../examples/`, which lead there in a clone, lead to the same files within the site."""
    return markdown if "/" in page.file.src_uri else markdown.replace("](../examples/", "](examples/")


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML."""
    return formulas.as_mathml(content)
