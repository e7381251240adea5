"""A kit of a network that does not exist: the manifest says all that a fit has to know."""

from __future__ import annotations

from collections.abc import Mapping

from bmtas.architecture import BranchedArchitecture
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource
from export.latency.kit import ANCHOR, Kit, NetworkEntry, PartEntry, file_of
from export.latency.sampling import sample_trees

NAMES = ("a", "b", "c")
MADDS = (40e6, 10e6, 30e6, 20e6, 60e6, 15e6)
STEM, HEAD = 25e6, 12e6
ELEMENTS = {"stem": 90_000, "heads.a": 7_000, "heads.b": 8_000, "heads.c": 9_000}
ELEMENTS |= {f"layers.{i:02d}": e for i, e in enumerate((60_000, 45_000, 30_000, 20_000, 20_000, 10_000))}


def toy_table(names: tuple[str, ...] = NAMES, madds: tuple[float, ...] = MADDS) -> CostTable:
    """Return a counted table."""

    def cost(value: float) -> dict[Resource, float]:
        return {Resource.MADDS: value, Resource.PARAMS: value / 100}

    return CostTable(
        backbone="toy",
        tasks=list(names),
        input_size=(64, 96),
        batch=1,
        layers=[LayerCost(name=f"layers.{i:02d}", per_group=cost(value)) for i, value in enumerate(madds)],
        fixed=[
            FixedCost(name="stem", shared=True, tasks=list(names), cost=cost(STEM)),
            *(FixedCost(name=f"heads.{n}", shared=False, tasks=[n], cost=cost(HEAD)) for n in names),
        ],
        provenance={"counter": "made up"},
    )


def made_up_kit() -> Kit:
    """Return the kit: all 27 trees that differ in their numbers of groups; every third is there to be fitted to."""
    table = toy_table()
    parts = [PartEntry(name="stem", operation="stem", copies=1, elements=ELEMENTS["stem"])]
    for layer in table.layers:
        parts += [
            PartEntry(name=f"{layer.name}.x{n}", operation=layer.name, copies=n, elements=ELEMENTS[layer.name])
            for n in (1, 2, 3)
        ]
    parts += [
        PartEntry(name=f"heads.{n}", operation=f"heads.{n}", copies=1, elements=ELEMENTS[f"heads.{n}"]) for n in NAMES
    ]
    layers = len(table.layers)
    networks = [
        NetworkEntry(
            name=ANCHOR, role="anchor", architecture=BranchedArchitecture.shared("toy", NAMES, layers).to_json()
        ),
        NetworkEntry(
            name="net.separate",
            role="separate",
            architecture=BranchedArchitecture.separate("toy", NAMES, layers).to_json(),
        ),
    ]
    for number, tree in enumerate(sample_trees(table, 27, seed=0)):
        networks.append(
            NetworkEntry(
                name=f"net.{number:02d}",
                role="held_out" if number % 3 else "fit",
                architecture=tree.to_json(),
            )
        )
    items = [part.name for part in parts] + [network.name for network in networks]
    return Kit(
        written_by="bmtas 0",
        runtime="onnxruntime",
        precisions=["fp32"],
        data="scenes",
        table=table.model_dump(mode="json"),
        parts=parts,
        networks=networks,
        files={file_of("fp32", item): "0" * 64 for item in items},
    )


def times_of(kit: Kit, parts: Mapping[str, float], a: float, b: float, c: float) -> dict[str, float]:
    """Return what all items take if a network takes `a` times its parts, `b` per million numbers at their borders, and `c` once."""
    elements = {(part.operation, part.copies): part.elements for part in kit.parts}
    names = {(part.operation, part.copies): part.name for part in kit.parts}
    times = dict(parts)
    for network in kit.networks:
        tree = kit.architecture(network)
        stems = 1 if tree.shared_stem else len(NAMES)
        used = [("stem", 1)] * stems + [(f"heads.{n}", 1) for n in NAMES]
        used += [(f"layers.{i:02d}", n) for i, n in enumerate(tree.group_counts)]
        across = sum(copies * elements[operation, copies] for operation, copies in used) / 1e6
        times[network.name] = a * sum(parts[names[key]] for key in used) + b * across + c
    return times


def part_times(kit: Kit) -> dict[str, float]:
    """Return what parts take: n copies side by side less than n times one, differently in each layer."""
    exponents = {layer.name: 0.4 + 0.1 * i for i, layer in enumerate(kit.counted().layers)}
    times = {}
    for part in kit.parts:
        alone = kit.counted().operation_cost(part.operation, Resource.MADDS) / 50e6 + part.elements / 1e6
        times[part.name] = alone * part.copies ** exponents.get(part.operation, 1.0)
    return times
