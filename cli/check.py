"""`bmtas check`: what exported files are, and whether they still are what was proved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Json


def check_command(
    files: Annotated[
        list[Path], typer.Argument(help="ONNX files, engines, .pt2 programs, folders of OpenVINO or stages.")
    ],
    json: Json = None,
) -> None:
    """Read exported files: tasks, inputs, precision, cost, and how each was proved. Needs no PyTorch.

    A file that is damaged, has changed since it was proved, or was built for another machine ends with exit code 2 or 3.

    Example: bmtas check runs/001-scenes-9GMAdds/networks/found/model.onnx
    """
    from bmtas.errors import BmtasError
    from cli.console import emit_json
    from export.check import check

    checked, problems = [], []
    for path in files:
        try:
            checked.append(check(path))
        except BmtasError as error:  # the others are looked at all the same
            problems.append(error)
    if json is not None:
        told = {"files": [each.to_json() for each in checked], "problems": [str(error) for error in problems]}
        emit_json({"schema_version": 1, **told}, json)
    if json != "-" and checked:
        _show(checked)
    if problems:
        raise problems[0] if len(problems) == 1 else type(problems[0])("; ".join(map(str, problems)))


def _show(checked: list[Any]) -> None:
    from rich.table import Table

    from cli.console import out
    from costs.units import Resource, format_quantity
    from export.proof.report import proof_text

    view = Table(show_lines=True)
    for name in ("file", "precision", "input", "tasks", "cost", "proved"):
        view.add_column(name)
    for each in checked:
        told = each.metadata
        size = told.get("input", {})
        madds = told.get("costs", {}).get("madds")
        view.add_row(
            each.path.name,
            str(told.get("precision", "")),
            f"{size.get('dtype', '')} {'x'.join(map(str, size.get('shape', ())))}",
            ", ".join(task["name"] for task in told.get("tasks", ())),
            "" if madds is None else format_quantity(madds, Resource.MADDS),
            proof_text(each.proof),
        )
    out().print(view)
    for each in checked:
        for note in each.notes:
            out().print(f"{each.path.name}: {note}", markup=False, soft_wrap=True)
