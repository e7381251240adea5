"""How fast the data set `scenes` renders, on one core.

Prints images per second with all six labels at several sizes, and at a small size the ratio to a plain
reference: a loop over pixels and objects in scalar Python that finds the nearest hit, its normal and its
light. The reference paints no textures, knows no panels and makes no label arrays, so the ratio is a lower
bound. The two run in turn on the same scenes, several times; the medians of the rounds are compared.

    python benchmarks/scenes.py [--images 20] [--rounds 5]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable

from bmtas.data.raycast import Scene, Shape, Solid
from bmtas.data.scenes import Scenes
from bmtas.data.textures import Vec

SIZES = ((128, 128), (256, 256), (512, 512))
SMALL = (64, 64)


def dot(a: Vec, b: Vec) -> float:
    """Return the dot product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def enter(solid: Solid, origin: Vec, ray: Vec) -> float:
    """Return where the ray enters the solid, infinity if it does not."""
    c, s = math.cos(solid.yaw), math.sin(solid.yaw)
    x, y, z = (o - m for o, m in zip(origin, solid.centre, strict=True))
    o = (c * x + s * y, c * y - s * x, z)
    d = (c * ray[0] + s * ray[1], c * ray[1] - s * ray[0], ray[2])
    near, far = -math.inf, math.inf
    round_axes = {Shape.BOX: 0, Shape.CYLINDER: 2, Shape.SPHERE: 3}[solid.shape]
    if round_axes:
        dd = sum(d[i] * d[i] for i in range(round_axes)) or 1e-18
        od = sum(o[i] * d[i] for i in range(round_axes))
        square = od * od - dd * (sum(o[i] * o[i] for i in range(round_axes)) - solid.half[0] ** 2)
        if square <= 0:
            return math.inf
        near, far = (-od - math.sqrt(square)) / dd, (-od + math.sqrt(square)) / dd
    for i in range(round_axes, 3):
        slope = d[i] or 1e-9
        a, b = (-solid.half[i] - o[i]) / slope, (solid.half[i] - o[i]) / slope
        near, far = max(near, min(a, b)), min(far, max(a, b))
    return near if 0 < near < far else math.inf


def skin(solid: Solid, point: Vec) -> Vec:
    """Return the normal of a point on the solid."""
    c, s = math.cos(solid.yaw), math.sin(solid.yaw)
    x, y, z = (p - m for p, m in zip(point, solid.centre, strict=True))
    unit = [v / h for v, h in zip((c * x + s * y, c * y - s * x, z), solid.half, strict=True)]
    if solid.shape is Shape.SPHERE:
        return x / solid.half[0], y / solid.half[0], z / solid.half[0]
    if solid.shape is Shape.CYLINDER:
        length = math.hypot(x, y)
        return (
            (0.0, 0.0, math.copysign(1, z)) if abs(unit[2]) > length / solid.half[0] else (x / length, y / length, 0.0)
        )
    axis = max(range(3), key=lambda i: abs(unit[i]))
    n = [math.copysign(1, unit[i]) if i == axis else 0.0 for i in range(3)]
    return c * n[0] - s * n[1], s * n[0] + c * n[1], n[2]


def pixel(scene: Scene, ray: Vec) -> tuple[float, int, Vec, float]:
    """Return depth, surface, normal and light that one ray meets."""
    origin = scene.camera.position
    depth, surface, normal = math.inf, 0, (0.0, 0.0, 0.0)
    for i in range(3):
        slope = ray[i] or 1e-9
        t = max(-origin[i] / slope, (scene.room[i] - origin[i]) / slope)
        if t < depth:
            side = -math.copysign(1, slope)
            depth, surface = t, 2 * i + (slope > 0)
            normal = (side if i == 0 else 0.0, side if i == 1 else 0.0, side if i == 2 else 0.0)
    hit = None
    for k, solid in enumerate(scene.solids):
        t = enter(solid, origin, ray)
        if t < depth:
            depth, surface, hit = t, scene.first_solid + k, solid
    point = (origin[0] + ray[0] * depth, origin[1] + ray[1] * depth, origin[2] + ray[2] * depth)
    if hit:
        normal = skin(hit, point)
    lamp = (scene.light[0] - point[0], scene.light[1] - point[1], scene.light[2] - point[2])
    square = dot(lamp, lamp)
    light = max(0.0, dot(lamp, normal)) / math.sqrt(square) * 8 / (8 + square)
    if any(enter(solid, point, lamp) < 1 for solid in scene.solids):
        light = 0.0
    return depth, surface, normal, math.sqrt(scene.ambient + (1 - scene.ambient) * 1.5 * light)


def reference(scene: Scene, size: tuple[int, int]) -> list[tuple[float, int, Vec, float]]:
    """Render a scene pixel by pixel."""
    height, width = size
    right, down, forward = scene.camera.axes
    focal = scene.camera.focal * min(size) / 2
    pixels = []
    for row in range(height):
        v = (row + 0.5 - height / 2) / focal
        for column in range(width):
            u = (column + 0.5 - width / 2) / focal
            x, y, z = (u * r + v * d + f for r, d, f in zip(right, down, forward, strict=True))
            pixels.append(pixel(scene, (x, y, z)))
    return pixels


def seconds(call: Callable[[int], object], images: int) -> float:
    """Return the seconds per image of `call`, called with the indices of images."""
    start = time.perf_counter()
    for index in range(images):
        call(index)
    return (time.perf_counter() - start) / images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="images per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts")
    options = parser.parse_args()
    # Rendering has no threaded operation in it; where the system can, this holds it to one core all the same.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    data = Scenes(train=max(1, options.images))
    tasks = [task.name for task in data.tasks]

    def load(size: tuple[int, int]) -> Callable[[int], object]:
        return lambda index: data.load("train", index, size=size, tasks=tasks)

    print("scenes with all labels, one core:")
    for size in SIZES:
        rounds = [seconds(load(size), options.images) for _ in range(options.rounds)]
        print(f"  {size[0]} x {size[1]}: {1 / statistics.median(rounds):.0f} images/s")

    few = min(3, options.images)
    fast, slow = [], []
    for _ in range(options.rounds):
        fast.append(seconds(load(SMALL), few))
        slow.append(seconds(lambda i: reference(data.scene("train", i), SMALL), few))
    a, b = statistics.median(fast), statistics.median(slow)
    print(f"at {SMALL[0]} x {SMALL[1]}: {1 / a:.0f} images/s, scalar reference {1 / b:.1f}, ratio {b / a:.0f}")


if __name__ == "__main__":
    main()
