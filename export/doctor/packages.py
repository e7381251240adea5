"""Python, bmtas, what its extras bring, and distributions that stand in each other's way. By metadata; nothing is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.doctor.finding import Finding

HOUSE = ("bmtas", "costs", "export", "cli")
"""The packages that bmtas installs under short names, which others may want as well."""

EXTRAS = {
    "host": "search, train and export",
    "gpu": "search, train and export on an NVIDIA GPU",
    "openvino": "OpenVINO files",
    "tensorboard": "boards of training",
}
RUNTIME_VARIANTS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""Distributions that write the same package `onnxruntime`."""

_REQUIREMENT = re.compile(r"^([\w.-]+)\s*(?:\[([\w, -]+)\])?\s*(?:\(?>=\s*([\d.]+))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w-]+)["']""")
_OLDEST = (3, 10)
_OWN_PLACE = "python3 -m venv .venv && .venv/bin/pip install bmtas"


@dataclass(frozen=True)
class Requirement:
    """A distribution that an extra asks for, and its oldest version."""

    name: str
    oldest: str | None


def python_findings() -> Iterator[Finding]:
    """Yield which Python and which bmtas this is."""
    here = platform.python_version()
    old = sys.version_info[:2] < _OLDEST
    where = "in a virtual environment" if sys.prefix != sys.base_prefix else "of the system"
    yield Finding(
        area="python",
        name="Python",
        level="fault" if old else "ok",
        found=f"{here} {where}" + (f"; bmtas needs {'.'.join(map(str, _OLDEST))}" if old else ""),
        fix="python3.10 -m venv .venv" if old else None,
    )
    version = installed("bmtas")
    yield Finding(
        area="python",
        name="bmtas",
        level="fault" if version is None else "ok",
        found="is run from its sources, but not installed, so its version and extras are unknown"
        if version is None
        else f"{version} in {_home()}",
        fix=f"pip install -e {shlex.quote(str(_home()))}" if version is None else None,
    )


def extra_findings(*, gpu: bool) -> Iterator[Finding]:
    """Yield for each extra whether it is complete. The extra for GPUs is left out where there is none (`gpu`)."""
    for extra, purpose in EXTRAS.items():
        if extra == "gpu" and not gpu:
            continue
        wanted = requirements(extra)
        if not wanted:
            continue
        missing = [each.name for each in wanted if not _present(each.name)]
        old = [
            f"{each.name} {found}, {each.oldest} is needed"
            for each in wanted
            if each.oldest and (found := installed(each.name)) and release(found) < release(each.oldest)
        ]
        told = "; ".join([*([f"not installed: {', '.join(missing)}"] if missing else []), *old])
        yield Finding(
            area="python",
            name=f"extra {extra}",
            level="warning" if old else "note" if missing else "ok",
            found=f"{told}; it is needed for {purpose}" if told else f"complete: {purpose}",
            fix=f"pip install 'bmtas[{extra}]'" if told else None,
        )


def requirements(extra: str) -> list[Requirement]:
    """Return what an extra of bmtas asks for, with what the extras that it holds ask for; empty where bmtas is not installed."""
    try:
        lines = importlib.metadata.requires("bmtas") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        asked, match = _EXTRA.search(line), _REQUIREMENT.match(line)
        if asked is None or asked[1] != extra or match is None:
            continue
        if match[1] == "bmtas":
            found += [each for held in (match[2] or "").split(",") for each in requirements(held.strip())]
        else:
            found.append(Requirement(match[1], match[3]))
    return found


def runtime_variants(*, gpu: bool) -> Iterator[Finding]:
    """Yield a fault where two variants of ONNX Runtime are installed: they overwrite each other's files."""
    found = [name for name in RUNTIME_VARIANTS if installed(name)]
    if len(found) > 1:
        keep = "onnxruntime-gpu" if gpu and "onnxruntime-gpu" in found else found[0]
        yield Finding(
            area="runtimes",
            name="ONNX Runtime variants",
            level="fault",
            found=f"{' and '.join(found)} are both installed, and overwrite each other's files; there must be exactly one",
            fix=f"pip uninstall -y {' '.join(found)} && pip install {keep}",
        )


def shadow_findings(path: Sequence[str], folder: Path) -> Iterator[Finding]:
    """Yield what else goes by the name of one of our packages: in other distributions, in what Python finds, in the working folder."""
    owners = importlib.metadata.packages_distributions()
    clean = True
    for name in HOUSE:
        others = sorted({owner for owner in owners.get(name, []) if owner != "bmtas"})
        if others:
            clean = False
            yield _fault(
                name,
                f"the distribution {', '.join(others)} also brings a package {name!r}, so one of the two has overwritten the other",
                _OWN_PLACE,
            )
        origin = _origin(name)
        if origin is not None and origin != _home() / name:
            clean = False
            yield _fault(
                name,
                f"{name!r} is found in {origin}, and not in {_home()}",
                _OWN_PLACE,
            )
        yield from (found for found in _in_folder(name, path, folder))
    if clean:
        yield Finding(
            area="python", name="package names", level="ok", found=f"{', '.join(HOUSE)} are ours, all in {_home()}"
        )


def _in_folder(name: str, path: Sequence[str], folder: Path) -> Iterator[Finding]:
    here = next((each for each in (folder / name, folder / f"{name}.py") if each.exists()), None)
    if here is None or all((folder / each).is_dir() for each in HOUSE):  # our own sources
        return
    searched = any(Path(entry or ".").resolve() == folder.resolve() for entry in path)
    yield Finding(
        area="python",
        name=f"package {name}",
        level="warning" if searched else "note",
        found=f"{here} has the name of a package of bmtas"
        + (
            ", and Python looks there" if searched else "; `python -m` and scripts in that folder would take it instead"
        ),
        fix=shlex.join(["mv", str(here), str(here.with_name("my_" + here.name))]),
    )


def _fault(name: str, found: str, fix: str) -> Finding:
    return Finding(area="python", name=f"package {name}", level="fault", found=found, fix=fix)


def _home() -> Path:
    return Path(__file__).resolve().parents[2]


def _origin(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin is not None:
        origin = Path(spec.origin).resolve()
        return origin.parent if origin.name == "__init__.py" else origin
    return next((Path(place).resolve() for place in spec.submodule_search_locations or ()), None)


def installed(name: str) -> str | None:
    """Return the version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _present(name: str) -> bool:
    names: Mapping[str, Sequence[str]] = {"onnxruntime": RUNTIME_VARIANTS}
    return any(installed(each) for each in names.get(name, (name,)))


def release(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (2, 13, 0) of 2.13.0+cpu."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
