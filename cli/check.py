"""`bmtas check`: what exported files are, and whether they still are what was proved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    from rich.table import Table

    from cli.console import emit_json, out
    from costs.units import Resource, format_quantity
    from export.check import check
    from export.proof.report import proof_text

    checked = [check(path) for path in files]
    if json is not None:
        emit_json({"schema_version": 1, "files": [each.to_json() for each in checked]}, json)
    if json == "-":
        return
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
