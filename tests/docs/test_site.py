"""The site builds strictly, needs nothing from outside, and its generated pages have what they are generated from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import typer
import yaml

from cli.main import app

WORDS = {
    "reference/manifest.html": ("edge_positive_weight", "median_mad"),
    "reference/configuration.html": ("arch_learning_rate", "resource_steps"),
    "reference/python.html": ("best_architecture", "register_backbone"),
    "reference/errors.html": ("exit-6",),
}


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does it: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    return folder


def leaves(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give all commands of the command line with their names."""
    parts = getattr(command, "commands", None)
    if parts is None:
        yield names, command
        return
    for name, part in parts.items():
        yield from leaves(part, (*names, name))


def test_nothing_is_loaded_from_outside(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            for address in re.findall(r'(?:src|href)="([^"]*)"', tag):
                assert not address.startswith(("http:", "https:", "//")), f"{page.name}: {tag}"


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    checked = 0
    for names, command in leaves(typer.main.get_command(app)):
        page = (site / "reference" / "commands" / f"{names[0]}.html").read_text(encoding="utf-8")
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for option in (*parameter.opts, *parameter.secondary_opts):
                    assert re.search(rf"<code>{re.escape(option)}[ <]", page), f"{names}: {option}"
                    checked += 1
    assert checked > 200


@pytest.mark.parametrize("page", WORDS)
def test_a_generated_page_has_its_content(site: Path, page: str) -> None:
    text = (site / page).read_text(encoding="utf-8")
    for word in WORDS[page]:
        assert word in text, word


def test_formulas_are_mathml_and_no_tex_is_left(site: Path) -> None:
    text = (site / "method.html").read_text(encoding="utf-8")
    assert text.count("<math") > 20
    body = re.sub(r"<math.*?</math>", "", text, flags=re.DOTALL)
    assert "arithmatex" not in body
    assert "\\sum" not in body


def test_links_outside_are_whole(root: Path) -> None:
    """They are not followed: only https, a host, and no space or bracket that was swallowed."""
    links = {
        (page.name, address)
        for page in (root / "README.md", *(root / "docs").glob("*.md"))
        for address in re.findall(r"\]\((https?:[^)]*)\)", page.read_text(encoding="utf-8"))
    }
    assert len(links) > 10
    for page, address in links:
        parts = urlparse(address)
        assert parts.scheme == "https", f"{page}: {address}"
        assert re.fullmatch(r"[a-z0-9.-]+\.[a-z]{2,}", parts.netloc), f"{page}: {address}"
        assert not re.search(r"[\s<>\"]", address), f"{page}: {address}"


def test_links_of_the_readme_lead_to_files(root: Path) -> None:
    """mkdocs does not read README.md, so nobody else looks at them."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (root / "README.md").read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if not (root / link).exists()]
    assert not missing


def test_the_way_to_a_page_is_short(root: Path) -> None:
    """Every page that is not generated stands in the navigation once; mkdocs itself is content with twice."""

    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml, whose tags need no meaning here."""

    nav = yaml.load((root / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]

    def named(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [name for inner in (part.values() if isinstance(part, dict) else part) for name in named(inner)]

    places = [name for name in named(nav) if "/" not in name]
    assert sorted(places) == sorted(path.name for path in (root / "docs").glob("*.md"))
