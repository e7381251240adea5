"""`bmtas doctor`: all checks, one after the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from export.doctor.finding import Finding
from export.doctor.hardware import hardware_findings
from export.doctor.packages import extra_findings, python_findings, runtime_variants, shadow_findings
from export.doctor.probes import runtime_findings
from export.doctor.space import space_findings
from export.doctor.torch_files import torch_findings
from export.machine.identity import identify
from export.machine.model import Identity
from export.machine.nvml import has_card

SCHEMA_VERSION = 1


def examine(runs: Path, root: Path = Path("/")) -> tuple[Identity, list[Finding]]:
    """Return what this machine is, and what was found on it, in the order of the areas. Installs and changes nothing.

    `runs` is the folder of runs; `root` is where /proc, /sys and the like are read.
    """
    machine = identify(root)
    jetson = machine.jetson is not None
    gpu = bool(machine.gpus) or jetson or has_card(root) or (root / "proc/driver/nvidia/version").exists()
    findings = [
        *python_findings(),
        *extra_findings(gpu=gpu and not jetson),
        *torch_findings(gpu=gpu, jetson=jetson),
        *shadow_findings(sys.path, Path.cwd()),
        *runtime_variants(gpu=gpu),
        *runtime_findings(root, gpu=gpu, jetson=jetson),
        *hardware_findings(root, machine),
        *space_findings(root, runs, machine.container),
    ]
    return machine, findings


def to_json(machine: Identity, findings: list[Finding]) -> dict[str, Any]:
    """Return the report as JSON; `blocked` says whether there is a fault."""
    return {
        "schema_version": SCHEMA_VERSION,
        "blocked": any(finding.level == "fault" for finding in findings),
        "machine": machine.model_dump(mode="json"),
        "findings": [finding.model_dump(mode="json") for finding in findings],
    }
