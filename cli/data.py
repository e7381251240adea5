"""`bmtas data`: what a data set holds, and whether it is whole and right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cli.options import Json, Quiet, completing

DEFAULT_PICTURE = Path("data-check.png")

data_app = typer.Typer(name="data", no_args_is_help=True, help="Look at data before anything long begins.")


@data_app.callback()
def _data() -> None:
    """Look at data before anything long begins."""


@data_app.command("check")
def check_command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="scenes, planted, a manifest (.yaml), or a folder: your own or a download.",
            autocompletion=completing("scenes", "planted"),
        ),
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Read every image with its labels, not 20 of each split.")
    ] = False,
    picture: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option("--picture", help=f"File for one image with its labels, {DEFAULT_PICTURE} here if left out."),
    ] = None,
    sample: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option("--sample", help="Id of the image to draw; one with as many labels as can be if left out."),
    ] = None,
    tasks: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option(
            "--tasks",
            help="Tasks whose labels are read, with commas; the data set's default ones, or all, if left out.",
        ),
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Say what a data set holds, read a sample of it, list what is missing or wrong, and draw one image with its labels.

    Exit code 0 if all is well, 2 if anything is missing or wrong. Nothing is written into the data's folder.

    Example: bmtas data check ~/data/cityscapes --picture look.png
    """
    from bmtas.data.report import SAMPLED, inspect, place_of, read_tasks
    from bmtas.data.source import open_dataset
    from cli.console import ShownProgress, emit_json, out

    dataset = open_dataset(data)
    names = read_tasks(dataset, [name.strip() for name in tasks.split(",")] if tasks is not None else None)
    target = _picture_file(dataset, picture, data)
    if json not in (None, "-"):
        _refuse_inside(dataset, Path(str(json)), "--json", data)
    if sample is not None:
        place_of(dataset, sample)  # an unknown id is told before anything is read
    with ShownProgress(quiet=quiet) as progress:
        report = inspect(dataset, tasks=names, per_split=None if everything else SAMPLED, progress=progress)
    drawn, told = _draw(dataset, sample, names, target)
    if json is not None:
        emit_json({**report.to_json(), "picture": drawn}, json)
    if json != "-":
        show_report(report, out())
        out().print(told, markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(2)


def _picture_file(dataset: Any, picture: Path | None, given: str) -> Path | None:
    """Return where to draw; None if nothing was named and the current folder is the data's. Raises UsageError."""
    from bmtas.data.report import holds

    if picture is None:
        return None if holds(dataset, DEFAULT_PICTURE, given) else DEFAULT_PICTURE
    _refuse_inside(dataset, picture, "--picture", given)
    return picture


def _refuse_inside(dataset: Any, path: Path, option: str, given: str) -> None:
    from bmtas.data.report import holds
    from bmtas.errors import UsageError

    if holds(dataset, path, given):
        raise UsageError(
            f"{option} {path} lies in the folder of the data, into which nothing is written; name a file elsewhere"
        )


def _draw(
    dataset: Any, sample_id: str | None, names: list[str], target: Path | None
) -> tuple[dict[str, Any] | None, str]:
    """Draw a sample; return what JSON says of it, and what people are told."""
    from bmtas.data.report import pick_sample
    from bmtas.data.sample_picture import draw_sample
    from bmtas.errors import UsageError

    if target is None:
        return (
            None,
            "no picture: the current folder belongs to the data, as that of the manifest does; name a file elsewhere by --picture",
        )
    try:
        sample = pick_sample(dataset, sample_id, names)
    except UsageError as error:
        return None, f"no picture: {error}"
    panels = draw_sample(sample, dataset.tasks, target)
    labels = "1 label" if panels == 2 else f"{panels - 1} labels"
    return {
        "file": str(target),
        "sample": sample.id,
        "panels": panels,
    }, f"picture of {sample.id} with {labels}: {target}"


def show_report(report: Any, console: Any) -> None:
    """Print a `DataReport`."""
    from rich.markup import escape

    from bmtas.data.check import SHOWN, cause_lines, missing_files

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    console.print(f"[bold]{escape(report.name)}[/]: {escape(report.variant)}", soft_wrap=True)
    if report.root is not None:
        say(f"in {report.root}")
    for remark in report.remarks:
        say(f"- {remark}")
    say(f"size to work at: {report.size[0]} high, {report.size[1]} wide")
    console.print(_splits_view(report))
    console.print(_tasks_view(report))
    left_out = [entry.task.name for entry in report.tasks if entry.left_out]
    if left_out:
        which = ", ".join(left_out) if len(left_out) <= SHOWN else f"{len(left_out)} of {len(report.tasks)} tasks"
        say(f"left out unless named by --tasks: {which}")
    for split in report.splits:
        if (split.difference or 0) < 0:
            say(
                f"{split.name} has {-split.difference} images fewer than the published data: an incomplete download, or a part of it",
                "red",
            )
    total = sum(split.images for split in report.splits)
    if report.missing:
        say(missing_files(report.missing), "red")
    if report.problems:
        say(f"{sum(p.files for p in report.problems)} problems in {report.read} of {total} images:", "red")
        for line in cause_lines([(problem.message, problem.files) for problem in report.problems]):
            say(line if line.startswith("... and ") else f"- {line}", "red")
    elif report.missing:
        say(f"{report.read} of {total} images looked at: nothing wrong in the files that are there")
    else:
        say(f"{report.read} of {total} images read with their labels: nothing wrong in them", "green")


def _splits_view(report: Any) -> Any:
    from rich.table import Table

    known = any(split.published is not None for split in report.splits)
    view = Table("split")
    for title in ("images", "published", "difference") if known else ("images",):
        view.add_column(title, justify="right")
    for split in report.splits:
        cells = [split.name, str(split.images)]
        if known:
            cells += ["not known" if split.published is None else str(split.published)]
            cells += ["" if split.difference is None else f"{split.difference:+d}" if split.difference else "none"]
        view.add_row(*cells, style="red" if (split.difference or 0) < 0 else None)
    return view


def _tasks_view(report: Any) -> Any:
    from rich.markup import escape
    from rich.table import Table

    view = Table("task", "kind")
    for title in ("classes", "labels", "of images"):
        view.add_column(title, justify="right")
    for entry in report.tasks:
        task = entry.task
        classes = str(len(task.classes)) if task.has_classes else ""
        style = "dim" if entry.left_out else None
        view.add_row(escape(task.name), task.kind.value, classes, str(entry.labels), str(entry.images), style=style)
    return view
