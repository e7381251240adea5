"""Random rooms for the data set `scenes`: what stands and hangs where, in which colours. Needs numpy only."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bmtas.data.raycast import Camera, Panel, Scene, Shape, Solid, surfaces
from bmtas.data.textures import Material, Pattern, Vec

_PROBE = (32, 32)  # size of the view in which solids must be visible to become salient
_VISIBLE = 0.015  # share of that view


def draw_scene(rng: np.random.Generator) -> Scene:
    """Return a random room in which at least one solid is well visible and vivid, and at most two are.

    A solid is salient if and only if it is vivid: painted with a saturation of at least 0.9 where all other
    surfaces have at most 0.5, and glowing.
    """
    # A room in which the camera sees no solid well is rare; it is drawn again, so this ends.
    while True:
        scene = _draw_room(rng)
        counts = np.bincount(surfaces(scene, _PROBE).ravel(), minlength=scene.first_solid + len(scene.solids))
        least = _VISIBLE * _PROBE[0] * _PROBE[1]
        visible = [i for i in range(len(scene.solids)) if counts[scene.first_solid + i] >= least]
        if visible:
            break
    wanted = 1 + int(rng.random() < 0.3)
    chosen = rng.permutation(visible)[:wanted].tolist()
    solids = list(scene.solids)
    for i in chosen:
        solids[i] = replace(solids[i], salient=True, material=_vivid(rng, solids[i].material))
    return replace(scene, solids=tuple(solids))


def _draw_room(rng: np.random.Generator) -> Scene:
    """Return a random room with panels and muted solids."""
    room = (rng.uniform(3.5, 6.5), rng.uniform(4.0, 7.0), rng.uniform(2.4, 3.2))
    position = (rng.uniform(0.3, 0.7) * room[0], rng.uniform(0.25, 0.8), rng.uniform(1.2, 1.8))
    camera = Camera(
        position=position,
        # Towards the middle of the opposite wall, give or take 25 degrees.
        yaw=math.atan2(room[0] / 2 - position[0], room[1] - position[1]) + rng.uniform(-0.44, 0.44),
        pitch=rng.uniform(0.08, 0.4),
        focal=1 / math.tan(rng.uniform(0.52, 0.65)),
    )
    wall = _wall(rng)
    return Scene(
        room=room,
        camera=camera,
        # Above all solids: the highest stack has 1.1 m + 0.7 m.
        light=(
            rng.uniform(0.25, 0.75) * room[0],
            rng.uniform(0.2, 0.7) * room[1],
            rng.uniform(0.8, 0.93) * room[2],
        ),
        ambient=rng.uniform(0.4, 0.55),
        faces=(wall, wall, wall, wall, _floor(rng), _ceiling(rng)),
        panels=_panels(rng, room),
        solids=_solids(rng, room, camera),
    )


def _solids(rng: np.random.Generator, room: Vec, camera: Camera) -> tuple[Solid, ...]:
    """Return up to 8 solids that stand on the floor, inside the room and apart; some carry another."""
    solids: list[Solid] = []
    wanted = int(rng.integers(3, 8))
    for _ in range(25 * wanted):
        # In and beside the view, far enough away not to hold the camera or to fill the image.
        angle, distance = camera.yaw + rng.uniform(-0.6, 0.6), rng.uniform(1.5, 5.5)
        x = camera.position[0] + distance * math.sin(angle)
        y = camera.position[1] + distance * math.cos(angle)
        solid = _solid(rng, x, y, 0.0, rng.uniform(0.18, 0.5))
        reach = _reach(solid)
        inside = reach < x < room[0] - reach and reach < y < room[1] - reach
        if inside and all(
            math.dist((x, y), s.centre[:2]) > reach + _reach(s) for s in solids if s.centre[2] == s.half[2]
        ):
            solids.append(solid)
            if solid.shape is not Shape.SPHERE and rng.random() < 0.25:
                width = min(solid.half[:2]) * rng.uniform(0.5, 0.7)
                solids.append(_solid(rng, x, y, 2 * solid.half[2], width))
        if len(solids) >= wanted:
            break
    return tuple(solids)


def _reach(solid: Solid) -> float:
    """Return the radius of the circle around the solid's footprint."""
    return math.hypot(*solid.half[:2]) if solid.shape is Shape.BOX else solid.half[0]


def _solid(rng: np.random.Generator, x: float, y: float, bottom: float, width: float) -> Solid:
    """Return a random solid of about the given half width that stands on z = `bottom` at (x, y)."""
    shape = list(Shape)[int(rng.integers(len(Shape)))]
    # At most 1.1 m high on the floor, less on another solid.
    depth, height = width * rng.uniform(0.6, 1.0), min(width * rng.uniform(0.5, 1.6), 0.55 - bottom / 4)
    half = {
        Shape.BOX: (width, depth, height),
        Shape.SPHERE: (width, width, width),
        Shape.CYLINDER: (depth, depth, height),
    }[shape]
    patterns = (Pattern.PLAIN, Pattern.PLAIN, Pattern.STRIPES, Pattern.CHECKER, Pattern.NOISE)
    cell = width * rng.uniform(0.3, 0.8)
    return Solid(
        shape=shape,
        centre=(x, y, bottom + half[2]),
        half=half,
        yaw=rng.uniform(0, math.pi),
        material=_material(rng, patterns, cell=(cell, cell, cell), saturation=(0.1, 0.5), value=(0.35, 0.95)),
    )


def _panels(rng: np.random.Generator, room: Vec) -> tuple[Panel, ...]:
    """Return windows, doors and pictures, at most one on each half of each wall, and in most rooms a rug."""
    panels: list[Panel] = []
    for face in range(4):
        length = room[1 - face // 2]
        for middle in (length / 4, 3 * length / 4):
            draw = rng.random()
            slack = rng.uniform(-1, 1)
            if draw < 0.7:
                make = _window if draw < 0.3 else _picture if draw < 0.5 else _door
                panel = make(rng, face)
                # Anywhere in its half of the wall, 5 cm from the ends.
                along = middle + slack * (length / 4 - panel.half[0] - 0.05)
                panels.append(replace(panel, centre=(along, panel.centre[1])))
    if rng.random() < 0.7:
        half = (rng.uniform(0.15, 0.35) * room[0], rng.uniform(0.15, 0.3) * room[1])
        centre = (rng.uniform(0.4, 0.6) * room[0], rng.uniform(0.45, 0.6) * room[1])
        material = _material(rng, (Pattern.RUG,), saturation=(0.25, 0.5), value=(0.4, 0.8))
        panels.append(Panel(label="rug", face=4, centre=centre, half=half, material=material))
    return tuple(panels)


def _window(rng: np.random.Generator, face: int) -> Panel:
    """Return a bright window with bars; its place along the wall is the caller's."""
    half = (rng.uniform(0.35, 0.75), rng.uniform(0.4, 0.6))
    sky = colorsys.hsv_to_rgb(rng.uniform(0.5, 0.62), rng.uniform(0.05, 0.3), 1.0)
    frame = colorsys.hsv_to_rgb(0.08, 0.4, rng.uniform(0.3, 0.9))
    material = Material(pattern=Pattern.WINDOW, colours=(sky, frame), glow=0.8)
    return Panel(label="window", face=face, centre=(0.0, 0.85 + half[1]), half=half, material=material)


def _door(rng: np.random.Generator, face: int) -> Panel:
    """Return a door with two sunk fields, from the floor up."""
    half = (rng.uniform(0.38, 0.5), rng.uniform(0.98, 1.08))
    material = _material(rng, (Pattern.DOOR,), hue=(0.04, 0.11), saturation=(0.3, 0.5), value=(0.3, 0.65))
    return Panel(label="door", face=face, centre=(0.0, half[1]), half=half, material=material)


def _picture(rng: np.random.Generator, face: int) -> Panel:
    """Return a framed picture at the height of the eyes."""
    half = (rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.4))
    paint = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.7, 1.0))
    frame = colorsys.hsv_to_rgb(rng.random(), 0.3, 0.15)
    # The painting is a slice through noise; the slice makes it another one each time.
    slice_at = (0.0, 0.0, rng.uniform(0, 1000))
    material = Material(pattern=Pattern.PICTURE, colours=(paint, frame), origin=slice_at)
    return Panel(label="picture", face=face, centre=(0.0, rng.uniform(1.4, 1.7)), half=half, material=material)


def _wall(rng: np.random.Generator) -> Material:
    """Return a wallpaper, plaster or bricks."""
    patterns = (Pattern.PLAIN, Pattern.STRIPES, Pattern.NOISE, Pattern.BRICKS)
    pattern = patterns[int(rng.integers(len(patterns)))]
    width = rng.uniform(0.15, 0.3)
    cell = {Pattern.STRIPES: (width, math.inf, 1.0), Pattern.BRICKS: (3 * width, width, 1.0)}
    return _material(
        rng,
        (pattern,),
        cell=cell.get(pattern, (width, width, 1.0)),
        saturation=(0.08, 0.4),
        value=(0.6, 0.9),
        contrast=(0.75, 0.92),
    )


def _floor(rng: np.random.Generator) -> Material:
    """Return planks, tiles or a carpet."""
    pattern = (Pattern.PLANKS, Pattern.CHECKER, Pattern.NOISE)[int(rng.integers(3))]
    width = rng.uniform(0.12, 0.22)
    cell = {Pattern.PLANKS: (7 * width, width, 1.0), Pattern.CHECKER: (2 * width, 2 * width, 1.0)}
    return _material(
        rng,
        (pattern,),
        cell=cell.get(pattern, (0.5 * width, 0.5 * width, 1.0)),
        hue=(0.02, 0.14),
        saturation=(0.2, 0.5),
        value=(0.35, 0.7),
        contrast=(0.6, 0.8),
    )


def _ceiling(rng: np.random.Generator) -> Material:
    """Return a nearly white ceiling."""
    return _material(rng, (Pattern.PLAIN,), saturation=(0.0, 0.08), value=(0.9, 1.0))


def _vivid(rng: np.random.Generator, muted: Material) -> Material:
    """Return the material in a vivid colour that glows."""
    hue, saturation = rng.random(), rng.uniform(0.9, 1.0)
    colours = colorsys.hsv_to_rgb(hue, saturation, 1.0), colorsys.hsv_to_rgb(hue, saturation, 0.75)
    return replace(muted, colours=colours, glow=0.5)


def _material(
    rng: np.random.Generator,
    patterns: Sequence[Pattern],
    *,
    cell: Vec = (1.0, 1.0, 1.0),
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float],
    value: tuple[float, float],
    contrast: tuple[float, float] = (0.5, 0.8),
) -> Material:
    """Return a material with one of `patterns` and two tones of one colour from ranges of HSV.

    `contrast` is the range of the ratio of the second tone's value to the first's.
    """
    pattern = patterns[int(rng.integers(len(patterns)))]
    h, s, v = rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    second = v * rng.uniform(*contrast)
    endless = pattern not in (Pattern.DOOR, Pattern.PICTURE, Pattern.RUG)
    origin = (rng.uniform(0, 10), rng.uniform(0, 10), 0.0) if endless else (0.0, 0.0, 0.0)
    return Material(
        pattern=pattern,
        colours=(colorsys.hsv_to_rgb(h, s, v), colorsys.hsv_to_rgb(h, s, second)),
        origin=origin,
        cell=cell,
    )
