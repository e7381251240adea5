"""A report as a file: gathered, rendered and written at once, so that it is whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

from bmtas.errors import UsageError
from bmtas.extras import own_version, require
from bmtas.files import write_text
from bmtas.runs import Run
from export.report.blocks import Missing, RunPage, Section, missing_of
from export.report.gather import gather
from export.report.overview import compare, overview
from export.report.page import run_page

NAME = "report.html"
JSON_SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """A report on one or more runs, ready to be written. `problems` name files that could not be read."""

    title: str
    pages: tuple[RunPage, ...]
    overview: Section | None
    date: str

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, over all runs."""
        return tuple(dict.fromkeys(problem for page in self.pages for problem in page.problems))

    def missing(self) -> list[tuple[str, Missing]]:
        """Return what is not there yet, with the name of its run."""
        return [(page.name, one) for page in self.pages for part in page.sections for one in missing_of(part.blocks)]

    def to_json(self, path: Path) -> dict[str, Any]:
        """Return what the report at `path` says in few words, as plain JSON values."""
        return {
            "schema_version": JSON_SCHEMA,
            "report": str(path),
            "runs": [{"run": page.name, "answer": page.answer} for page in self.pages],
            "missing": [{"run": run, "what": one.text, "command": one.command} for run, one in self.missing()],
            "problems": list(self.problems),
        }


def make_report(runs: Sequence[Run]) -> Report:
    """Gather a report on `runs`, each once. Raises UsageError where nothing can be told of one of them, or there are none."""
    chosen = {run.path.resolve(): run for run in runs}
    if not chosen:
        raise UsageError("there is nothing to report; name at least one run")
    told = [gather(run) for run in chosen.values()]
    several = len(told) > 1
    comparison, reason = compare(told) if several else (None, "")
    pages = tuple(run_page(material, f"run-{number}") for number, material in enumerate(told, start=1))
    return Report(
        f"{len(pages)} runs side by side" if several else pages[0].name,
        pages,
        overview(told, pages, comparison, reason) if several else None,
        datetime.now(timezone.utc).isoformat(timespec="minutes"),
    )


def render(report: Report) -> str:
    """Return the report as HTML. Raises EnvironmentProblem where Jinja is not installed."""
    jinja = require("jinja2", "train")
    folder = files("export.report")
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    style = (folder / "report.css").read_text(encoding="utf-8")
    text: str = template.render(report=report, style=style, version=own_version())
    return text


def write_report(report: Report, path: Path) -> None:
    """Write the report to `path`, whole or not at all.

    Raises EnvironmentProblem where Jinja is not installed or the place cannot be written, UsageError where it is a folder.
    """
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder; name a file in it, for example {path / NAME}")
    write_text(path, render(report), "--output")
