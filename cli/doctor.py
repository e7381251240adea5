"""`bmtas doctor`: what this machine can do, and the commands that would mend what it cannot."""

from __future__ import annotations

from typing import Any

from cli.options import DEFAULT_RUNS, Json, Runs


def doctor_command(json: Json = None, runs: Runs = DEFAULT_RUNS) -> None:
    """Tell what this machine can do, and what would mend what it cannot. Installs and changes nothing, and needs no PyTorch.

    Ends with exit code 3 if something does not work until it is mended (a fault), and 0 otherwise.

    Example: bmtas doctor --json doctor.json
    """
    from bmtas.errors import EnvironmentProblem
    from cli.console import emit_json, out
    from export.doctor.examine import examine, to_json

    machine, findings = examine(runs)
    if json is not None:
        emit_json(to_json(machine, findings), json)
    if json != "-":
        out().print(_as_table(machine, findings))
    faults = [finding for finding in findings if finding.level == "fault"]
    if faults:
        told = "; ".join(f"{f.name}: {f.found}" + (f" ({f.fix})" if f.fix else "") for f in faults)
        raise EnvironmentProblem(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} to mend: {told}")


_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "bold red"}


def _as_table(machine: Any, findings: list[Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    view = Table(title=escape(machine.title))
    for name in ("", "what", "found", "to mend it"):
        view.add_column(name, overflow="fold")
    areas = list(dict.fromkeys(finding.area for finding in findings))
    for area in areas:
        view.add_section()
        view.add_row(f"[bold]{area}[/]")
        for finding in findings:
            if finding.area == area:
                level = f"[{_STYLES[finding.level]}]{finding.level}[/]"
                view.add_row(level, escape(finding.name), escape(finding.found), escape(finding.fix or ""))
    counted = {level: sum(finding.level == level for finding in findings) for level in ("fault", "warning", "note")}
    view.caption = ", ".join(f"{n} {level}{'s' if n != 1 else ''}" for level, n in counted.items())
    return view
