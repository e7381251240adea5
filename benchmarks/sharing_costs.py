"""Multiply-adds of Cross-Stitch, NDDR-CNN, MTAN and sluice networks beside those of the paper's tables, and what MTAN would cost in other readings.

    python benchmarks/sharing_costs.py [--docs docs/sharing.md] [--dry-run]

Writes both tables into the document, between the lines that mark them. Every operation is counted once by fvcore, on the CPU, so this takes
a minute; counts are remembered. The readings of MTAN are by formula, from the shapes of the encoder's values.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.config import Method
from bmtas.counting import Count
from bmtas.files import write_text
from bmtas.methods.sharing.space import open_space
from bmtas.networks.attention import places_of
from bmtas.networks.backbone import get_backbone
from bmtas.networks.operations import Kit, count_operations_of
from bmtas.tasks import TASK_SETS

TABLES = {
    "1, PASCAL-Context, MobileNetV2, 512x512": ("mobilenet_v2", "pascal-context", (512, 512)),
    "2, NYUD-v2, ResNet-50, 425x560": ("resnet50", "nyud-v2", (425, 560)),
}
PAPER = {
    "mobilenet_v2": {"shared": 6.0, "single": 15.7, "cross-stitch": 15.7, "nddr-cnn": 21.8, "mtan": 9.5},
    "resnet50": {"shared": 122.2, "single": 254.4, "cross-stitch": 254.4, "nddr-cnn": 366.2, "mtan": 600.1},
}
"""GMAdds of Bruggemann et al., BMVC 2020."""
NETWORKS = ("shared", "single", "cross-stitch", "nddr-cnn", "mtan", "sluice")


def architecture_of(name: str, kit: Kit) -> Architecture:
    """Return a network of all tasks of `kit`."""
    backbone, tasks = kit.backbone, tuple(kit.tasks)
    if name == "shared":
        return BranchedArchitecture.shared(backbone.name, tasks, backbone.layers)
    if name == "single":
        return BranchedArchitecture.separate(backbone.name, tasks, backbone.layers)
    return open_space(Method(name), kit, {}).architecture


def counted(kit: Kit, size: tuple[int, int]) -> Iterator[tuple[str, float, float]]:
    """Yield each network with its multiply-adds in GMAdds and its parameters in MParams."""
    known: dict[str, Count] = {}
    for name in NETWORKS:
        graph = architecture_of(name, kit).graph(kit.backbone.tap)
        known = count_operations_of(graph, kit, size, known)
        counts = known
        madds = sum(counts[node.operation].madds for node in graph.nodes)
        yield name, madds / 1e9, sum(counts[operation].params for operation in graph.modules().values()) / 1e6


def shapes_at(kit: Kit, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Return the (channels, places) of the encoder's values for an image of `size`."""
    x, shapes = torch.zeros(1, 3, *size, device="meta"), {}
    with torch.no_grad():
        for name, module in kit.backbone.operations().items():
            x = module.to("meta").eval()(x)
            shapes[name] = (x.shape[1], x.shape[2] * x.shape[3])
    return shapes


def attention_madds(kit: Kit, size: tuple[int, int], *, wide: bool, bottleneck: bool, refine_last: bool) -> float:
    """Return the multiply-adds of all masks and refinements of one task, in one reading of MTAN.

    `wide` masks have C channels inside, others C / 4; a refinement is a bottleneck with a 1x1 projection or one 3x3 convolution.
    """
    places, shapes, separable = places_of(kit), shapes_at(kit, size), kit.backbone.separable
    total = 0
    for index, place in enumerate(places):
        c, o, area = place.channels, place.refined_channels, shapes[place.last][1]
        inside = c if wide else c // 4
        total += area * inside * (place.before_channels + (c if index else 0) + c)
        if index < len(places) - 1 or refine_last:
            narrow = o // 4
            spatial = 9 * narrow + narrow**2 if separable else 9 * narrow**2
            plain = 9 * c + c * o if separable else 9 * c * o
            total += area * (c * narrow + spatial + narrow * o + c * o if bottleneck else plain)
    return total


def main_table() -> list[str]:
    """Return the lines of the table of all networks."""
    lines = ["| paper's table | network | paper | counted | difference | MParams |", "|---|---|---|---|---|---|"]
    for title, (backbone, tasks, size) in TABLES.items():
        kit = Kit(get_backbone(backbone), {task.name: task for task in TASK_SETS[tasks]})
        for name, madds, params in counted(kit, size):
            paper = PAPER[backbone].get(name)
            difference = None if paper is None else round(100 * (madds / paper - 1), 1) + 0.0  # no -0.0
            told = "not there | " if paper is None else f"{paper} | "
            told += f"{madds:.2f} | " + ("" if difference is None else f"{difference:+.1f} %")
            lines.append(f"| {title} | {name} | {told} | {params:.1f} |")
    return lines


def readings_table() -> list[str]:
    """Return the lines of the table of readings of MTAN: everything but its attention is what `counted` has."""
    columns = list(TABLES.values())
    lines = [
        "| channels inside a mask | refinement | after the last stage | table 1 | table 2 |",
        "|---|---|---|---|---|",
    ]
    kits = {b: Kit(get_backbone(b), {t.name: t for t in TASK_SETS[tasks]}) for b, tasks, _ in columns}
    ours = {b: {name: madds for name, madds, _ in counted(kits[b], size)}["mtan"] for b, _, size in columns}
    for wide, bottleneck, last in itertools.product((False, True), repeat=3):
        found = []
        for backbone, _, size in columns:
            kit = kits[backbone]
            other = attention_madds(kit, size, wide=wide, bottleneck=bottleneck, refine_last=last)
            built = attention_madds(kit, size, wide=True, bottleneck=False, refine_last=True)
            found.append(ours[backbone] + len(kit.tasks) * (other - built) / 1e9)
        texts = ("C" if wide else "C / 4", "bottleneck" if bottleneck else "3x3", "refined" if last else "not refined")
        lines.append(f"| {' | '.join(texts)} | {found[0]:.2f} | {found[1]:.1f} |")
    paper = [PAPER[b]["mtan"] for b, _, _ in columns]
    return [*lines, f"| paper | | | {paper[0]} | {paper[1]} |"]


def replaced(text: str, mark: str, lines: list[str]) -> str:
    """Return `text` with `lines` between the two lines that mark their place. Raises ValueError where they are missing."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"no lines {begin.strip()} and {end} in the document")
    return before + begin + "\n".join(lines) + "\n" + end + after


def main() -> None:
    """Count, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path("docs/sharing.md"))
    parser.add_argument("--dry-run", action="store_true", help="print the tables only")
    options = parser.parse_args()
    tables = {"costs": main_table(), "readings": readings_table()}
    for lines in tables.values():
        print("\n".join(lines), end="\n\n")
    if not options.dry_run:
        text = options.docs.read_text(encoding="utf-8")
        for mark, lines in tables.items():
            text = replaced(text, mark, lines)
        write_text(options.docs, text)


if __name__ == "__main__":
    main()
