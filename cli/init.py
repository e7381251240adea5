"""`bmtas init`: from a folder of images and labels to a manifest."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cli.options import Json, Quiet

DEFAULT_OUTPUT = Path("bmtas.yaml")


def init_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder in which images and labels lie.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.")] = DEFAULT_OUTPUT,
    samples: Annotated[int, typer.Option(min=1, max=20, help="Images to draw with their labels.")] = 3,
    picture: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option(
            "--picture",
            help="File for those images; the manifest's name with .png if left out, unless that stands among images or labels.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Overwrite the manifest with its lists and links, and a picture that --picture names or bmtas init drew.",
        ),
    ] = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Look at a folder of images and labels and write a manifest for it, with the reason for every guess beside it.

    Nothing is written into FOLDER unless --output stands there, and nothing at all before the manifest has been read back and a
    sample of its images loaded.

    Example: bmtas init ~/photos --output my.yaml
    """
    from bmtas.data.proposal import propose, write_proposal
    from bmtas.data.proposal.pictures import draw_samples, folder_of_data
    from bmtas.errors import UsageError
    from cli.console import ShownProgress, emit_json, out

    _check_free(output, picture, force=force)
    with ShownProgress(quiet=quiet) as progress:
        proposal = propose(folder, progress)
        drawn = picture or output.with_suffix(".png")
        among = folder_of_data(proposal, drawn)
        if picture is not None and among is not None:
            raise UsageError(
                f"--picture {picture} would stand among the images or labels in {among}; name a file elsewhere"
            )
        dataset = write_proposal(proposal, output, force=force, progress=progress)
        budget = _halfway(dataset, progress)
    if among is None:
        told = f"picture of {draw_samples(dataset, samples, drawn)} images with their labels: {drawn}"
    else:
        told = f"no picture: {drawn} would be read as one of the images or labels in {among}; name a file elsewhere by --picture"
    if json is not None:
        emit_json(
            {**proposal.to_json(), "manifest": str(output), "picture": None if among else str(drawn), "budget": budget},
            json,
        )
    if json != "-":
        _show(proposal, dataset, out())
        out().print(told, markup=False, soft_wrap=True)
        _next(output, budget, out())


def _check_free(output: Path, picture: Path | None, *, force: bool) -> None:
    """Raise UsageError if the manifest or the picture has an unfit name or would overwrite what it must not."""
    from bmtas.data.proposal.own import is_own_picture
    from bmtas.errors import UsageError

    drawn = picture or output.with_suffix(".png")
    if drawn.suffix.lower() != ".png":
        raise UsageError(f"--picture {drawn}: the picture is a PNG; give it a name that ends in .png")
    for path, option in ((output, "--output"), (drawn, "--picture")):
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file by {option}")
        if path.exists() and not force:
            raise UsageError(f"{path} exists and is not overwritten; name another file by {option}, or add --force")
    if picture is None and drawn.exists() and not is_own_picture(drawn):
        raise UsageError(f"{drawn} was not drawn by bmtas init and is not overwritten; name the picture by --picture")


def _halfway(dataset: Any, progress: Any) -> str | None:
    """Return the budget halfway between all shared and separate networks; None where it cannot be counted here."""
    from bmtas.errors import BmtasError
    from costs.errors import CostError

    if len(dataset.tasks) < 2:
        return None
    try:
        from bmtas.networks.backbone import get_backbone
        from bmtas.planning import resolve_budgets
        from bmtas.profile import build_table

        progress.note("counting multiply-adds ...")
        table = build_table(get_backbone("mobilenet_v2"), dataset.tasks, dataset.size)
        return resolve_budgets([], table)[0][0].text
    except (BmtasError, CostError, ImportError) as error:
        progress.note(f"no budget proposed: {error}")
        return None


def _show(proposal: Any, dataset: Any, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    view = Table("task", "kind", "labels", "why")
    for task in proposal.tasks:
        classes = next(t for t in dataset.tasks if t.name == task.name).classes
        kind = task.meaning.kind.value + (f", {len(classes)} classes" if classes else "")
        why = escape("\n".join([task.meaning.evidence, *(f"doubt: {doubt}" for doubt in task.meaning.doubts)]))
        view.add_row(escape(task.name), kind, f"{task.labels} of {len(proposal.images.files)}", why)
    console.print(view)
    images = ", ".join(f"{len(dataset.ids(split))} {split}" for split in dataset.splits)
    notes = [
        f"images: {images}: {proposal.splits.why}",
        *(f"doubt: {doubt}" for doubt in proposal.splits.doubts),
        f"size: {dataset.size[0]} high, {dataset.size[1]} wide: {proposal.size_why}",
        *proposal.remarks,
    ]
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    for refused in proposal.refused:
        console.print(
            f"not used, {refused.title}: {refused.found}. {refused.remedy}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _next(output: Path, budget: str | None, console: Any) -> None:
    name = shlex.quote(str(output))
    search = f"bmtas search --data {name}" + (f" --budget {budget}" if budget else "")
    lines = [
        f"written: {output}. Every guess has its reason beside it; change what is wrong, then:",
        f"  bmtas data check {name} --all",
        f"  {search}" + ("    # halfway between all shared and separate networks" if budget else ""),
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
