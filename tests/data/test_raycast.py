"""The ray-caster: rooms computed by hand, and a scalar ray-caster of the tests' own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from bmtas.data.raycast import (
    CLASSES,
    PARTS,
    Buffers,
    Camera,
    Panel,
    Scene,
    Shape,
    Solid,
    edges,
    render_scene,
    surfaces,
)
from bmtas.data.scenes import Scenes
from bmtas.data.textures import Material, Pattern, Vec, mix

WHITE = Material(pattern=Pattern.PLAIN, colours=((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))


def room(*solids: Solid, yaw: float = 0.0, pitch: float = 0.0, panels: tuple[Panel, ...] = ()) -> Scene:
    """A room of 10 x 10 x 4 m; the camera 1.5 m high, 1 m from the wall behind; 90 degrees of view."""
    camera = Camera(position=(5.0, 1.0, 1.5), yaw=yaw, pitch=pitch, focal=1.0)
    return Scene(
        room=(10.0, 10.0, 4.0),
        camera=camera,
        light=(5.0, 5.0, 3.5),
        ambient=0.25,
        faces=(WHITE,) * 6,
        panels=panels,
        solids=solids,
    )


def solid(shape: Shape, centre: Vec, half: Vec, yaw: float = 0.0) -> Solid:
    return Solid(shape=shape, centre=centre, half=half, yaw=yaw, material=WHITE)


def classes(scene: Scene, seen: Buffers) -> npt.NDArray[np.uint8]:
    return scene.classes[seen.surface]


def test_empty_room_by_hand() -> None:
    scene = room()
    seen = render_scene(scene, (65, 65))
    slope = (np.arange(65) - 32) / 32.5  # of the rays, to the right and down: 90 degrees of view
    u, v = np.meshgrid(slope, slope)
    # Far wall 9 m ahead, side walls 5 m aside, floor 1.5 m below, ceiling 2.5 m above; the nearest wins.
    with np.errstate(divide="ignore"):
        walls = {
            (0, 0, -1): ("wall", np.full_like(u, 9)),
            (1, 0, 0): ("wall", np.where(u < 0, -5 / u, np.inf)),
            (-1, 0, 0): ("wall", np.where(u > 0, 5 / u, np.inf)),
            (0, -1, 0): ("floor", np.where(v > 0, 1.5 / v, np.inf)),
            (0, 1, 0): ("ceiling", np.where(v < 0, -2.5 / v, np.inf)),
        }
    nearest = np.min([d for _, d in walls.values()], axis=0)
    np.testing.assert_allclose(seen.depth, nearest, rtol=1e-5)
    for normal, (name, depth) in walls.items():
        second = np.min([d for n, (_, d) in walls.items() if n != normal], axis=0)
        here = depth < 0.9999 * second  # not in the corners, which belong to two
        assert (classes(scene, seen)[here] == CLASSES.index(name)).all()
        np.testing.assert_allclose(seen.normals[here], np.broadcast_to(normal, (here.sum(), 3)), atol=1e-6)
    assert not seen.parts.any()


def test_sphere_ahead_by_hand() -> None:
    scene = room(solid(Shape.SPHERE, (5.0, 5.0, 1.5), (0.5, 0.5, 0.5)))
    seen = render_scene(scene, (255, 255))
    assert seen.depth[127, 127] == pytest.approx(4 - 0.5, abs=1e-4)
    np.testing.assert_allclose(seen.normals[127, 127], (0, 0, -1), atol=1e-5)
    # A sphere of radius r at distance d is seen up to the angle asin(r / d); focal length 127.5 pixels.
    radius = 127.5 * math.tan(math.asin(0.5 / 4))
    y, x = np.mgrid[-127:128, -127:128]
    np.testing.assert_array_equal(classes(scene, seen) == CLASSES.index("sphere"), np.hypot(x, y) < radius)
    upper = seen.parts == PARTS.index("sphere_upper")
    assert upper[127 - 10, 127]
    assert not upper[127 + 10, 127]
    # The normal points right on the right half, and up (negative y) on the upper half.
    assert seen.normals[127, 137, 0] > 0.3
    assert seen.normals[117, 127, 1] < -0.3


def test_box_and_cylinder_by_hand() -> None:
    quarter = math.pi / 4
    box = render_scene(room(solid(Shape.BOX, (5.0, 5.0, 1.5), (0.6, 0.6, 0.8), quarter)), (101, 101))
    # The edge towards the camera is sqrt(2) * 0.6 nearer than the centre; each face is turned by 45 degrees.
    assert box.depth[50, 50] == pytest.approx(4 - math.sqrt(2) * 0.6, abs=1e-4)
    np.testing.assert_allclose(box.normals[50, 46], (-math.sqrt(0.5), 0, -math.sqrt(0.5)), atol=1e-5)
    np.testing.assert_allclose(box.normals[50, 54], (math.sqrt(0.5), 0, -math.sqrt(0.5)), atol=1e-5)
    # On the right face depth grows with x: depth = d0 + x, x = u * depth, hence depth = d0 / (1 - u).
    assert box.depth[50, 54] == pytest.approx((4 - math.sqrt(2) * 0.6) / (1 - 4 / 50.5), abs=1e-4)

    scene = room(solid(Shape.CYLINDER, (5.0, 5.0, 0.5), (0.7, 0.7, 0.5)))
    drum = render_scene(scene, (101, 101))
    # Of the column ahead: its side 3.3 m away from z = 0 to 1, that is 0.5 to 1.5 m below the camera.
    rows = np.arange(101)
    below = (rows - 50) / 50.5
    side = (below * 3.3 > 0.5) & (below * 3.3 < 1.5)
    np.testing.assert_allclose(drum.depth[side, 50], 3.3, atol=1e-4)
    np.testing.assert_allclose(drum.normals[side, 50], np.broadcast_to((0, 0, -1), (side.sum(), 3)), atol=1e-5)
    assert (drum.parts[side, 50] == PARTS.index("cylinder_side")).all()
    # Its cap, 0.5 m below the camera, from 3.3 to 4.7 m away.
    cap = (below * 3.3 < 0.5) & (below * 4.7 > 0.5)
    assert cap.any()
    np.testing.assert_allclose(drum.depth[cap, 50], 0.5 / below[cap], rtol=1e-4)
    np.testing.assert_allclose(drum.normals[cap, 50], np.broadcast_to((0, -1, 0), (cap.sum(), 3)), atol=1e-5)
    assert (drum.parts[cap, 50] == PARTS.index("cylinder_top")).all()


def test_turned_cameras_by_hand() -> None:
    down = render_scene(room(pitch=math.pi / 2), (33, 33))
    floor = classes(room(), down) == CLASSES.index("floor")
    assert floor[16, 16]
    np.testing.assert_allclose(down.depth[floor], 1.5, atol=1e-5)
    np.testing.assert_allclose(down.normals[16, 16], (0, 0, -1), atol=1e-6)
    right = render_scene(room(yaw=math.pi / 2), (33, 33))
    assert right.depth[16, 16] == pytest.approx(5, abs=1e-5)  # along +x: the side wall
    np.testing.assert_allclose(right.normals[16, 16], (0, 0, -1), atol=1e-6)


def test_what_is_behind_the_camera_is_not_seen() -> None:
    for shape in Shape:
        seen = render_scene(room(solid(shape, (5.0, 0.4, 1.5), (0.3, 0.3, 0.3))), (33, 33))
        assert seen.surface.max() < 6
        np.testing.assert_array_equal(seen.depth, render_scene(room(), (33, 33)).depth)


def test_panel_by_hand() -> None:
    # On the wall y = 10, which is 9 m ahead: 2 m to 1 m left of the eyes, 0.5 m below to 1 m above them.
    panel = Panel(label="window", face=3, centre=(3.5, 1.75), half=(0.5, 0.75), material=WHITE)
    scene = room(panels=(panel,))
    seen = render_scene(scene, (201, 201))
    y, x = np.mgrid[-100:101, -100:101] / 100.5 * 9
    np.testing.assert_array_equal(
        classes(scene, seen) == CLASSES.index("window"), (x > -2) & (x < -1) & (y > -1) & (y < 0.5)
    )
    np.testing.assert_array_equal(seen.depth, render_scene(room(), (201, 201)).depth)


def test_light_and_shadow_by_hand() -> None:
    seen = render_scene(room(solid(Shape.SPHERE, (5.0, 5.0, 1.5), (0.5, 0.5, 0.5))), (101, 101))
    # The ray straight ahead and 1.5 / 4 down meets the floor below sphere and lamp: ambient light 0.25 alone.
    row = 50 + round(50.5 * 1.5 / 4)
    assert seen.image[row, 50] == pytest.approx([127.5] * 3, abs=1)
    # Without the sphere: cosine 1, distance 3.5; the root of 0.25 + 0.75 * 1.5 * 8 / (8 + 3.5^2) is 0.833.
    assert render_scene(room(), (101, 101)).image[row, 50] == pytest.approx([212.5] * 3, abs=1)


def test_a_mirrored_room_gives_a_mirrored_image() -> None:
    solids = (
        solid(Shape.BOX, (4.1, 4.0, 0.5), (0.5, 0.3, 0.5), 0.4),
        solid(Shape.SPHERE, (6.2, 5.0, 0.6), (0.6, 0.6, 0.6)),
        solid(Shape.CYLINDER, (5.0, 3.0, 0.2), (0.3, 0.3, 0.2)),
    )
    mirrored = tuple(replace(s, centre=(10 - s.centre[0], *s.centre[1:]), yaw=-s.yaw) for s in solids)
    one = render_scene(room(*solids, yaw=0.2, pitch=0.1), (64, 80))
    two = render_scene(room(*mirrored, yaw=-0.2, pitch=0.1), (64, 80))
    same = one.surface == np.array([1, 0, 2, 3, 4, 5, 6, 7, 8], np.uint8)[two.surface[:, ::-1]]
    assert same.mean() > 0.998  # rounding may decide otherwise where a ray grazes an outline
    inner = same & (edges(one.surface) == 0)
    np.testing.assert_allclose(one.depth[inner], two.depth[:, ::-1][inner], atol=1e-4)
    turned = np.abs(one.normals - two.normals[:, ::-1] * (-1, 1, 1)).max(axis=2)
    assert (turned[inner] < 1e-3).mean() > 0.99  # not at the creases within a box
    flat = inner & (turned < 1e-3)
    np.testing.assert_array_equal(one.parts[flat], two.parts[:, ::-1][flat])


def brute_force(scene: Scene, ray: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Return depth and surface that one ray meets, in double precision: planes and quadrics one by one."""
    eye = np.array(scene.camera.position)
    hits: list[tuple[float, int]] = []
    for axis in range(3):
        for side in range(2):
            t = (side * scene.room[axis] - eye[axis]) / ray[axis]
            p = eye + t * ray
            others = [i for i in range(3) if i != axis]
            if t > 0 and all(-1e-9 <= p[i] <= scene.room[i] + 1e-9 for i in others):
                face, k = 2 * axis + side, 2 * axis + side
                for n, panel in enumerate(scene.panels):
                    offset = [abs(p[i] - c) - h for i, c, h in zip(others, panel.centre, panel.half, strict=True)]
                    if panel.face == face and max(offset) < 0:
                        k = 6 + n
                hits.append((t, k))
    for n, body in enumerate(scene.solids):
        hits += [(t, scene.first_solid + n) for t in brute_force_solid(body, eye - body.centre, ray) if t > 0]
    return min(hits)


def brute_force_solid(body: Solid, o: npt.NDArray[np.float64], ray: npt.NDArray[np.float64]) -> list[float]:
    """Return all parameters at which the line o + t ray, relative to the solid's centre, crosses its skin."""
    if body.shape is Shape.SPHERE:
        return quadratic(ray, o, body.half[0])
    if body.shape is Shape.CYLINDER:
        d2, o2 = ray[:2], o[:2]
        sides = quadratic(d2, o2, body.half[0])
        caps = [(s * body.half[2] - o[2]) / ray[2] for s in (-1, 1)]
        return [t for t in sides if abs(o[2] + t * ray[2]) <= body.half[2]] + [
            t for t in caps if np.linalg.norm(o2 + t * d2) <= body.half[0]
        ]
    c, s = math.cos(body.yaw), math.sin(body.yaw)
    found = []
    axes = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    for i in range(3):
        for side in (-1, 1):
            t = (side * body.half[i] - axes[i] @ o) / (axes[i] @ ray)
            inside = np.abs(axes @ (o + t * ray)) <= np.array(body.half) + 1e-9
            found += [t] if inside.all() else []
    return found


def quadratic(d: npt.NDArray[np.float64], o: npt.NDArray[np.float64], radius: float) -> list[float]:
    """Return the t for which o + t d has length `radius`."""
    roots = np.roots([np.dot(d, d), 2 * np.dot(o, d), np.dot(o, o) - radius**2])
    return [float(x.real) for x in roots if abs(x.imag) < 1e-12]


def test_depth_and_surface_agree_with_brute_force() -> None:
    height, width = 90, 120
    rng = np.random.default_rng(5)
    agree = []
    for index in range(12):
        scene = Scenes().scene("train", index)
        seen = render_scene(scene, (height, width))
        camera = scene.camera
        forward = np.array([math.sin(camera.yaw), math.cos(camera.yaw), 0]) * math.cos(camera.pitch)
        forward[2] = -math.sin(camera.pitch)
        right = np.array([math.cos(camera.yaw), -math.sin(camera.yaw), 0])
        down = np.cross(forward, right)
        for _ in range(25):
            row, column = int(rng.integers(height)), int(rng.integers(width))
            u, v = (column + 0.5 - width / 2) / (height / 2), (row + 0.5 - height / 2) / (height / 2)
            depth, surface = brute_force(scene, forward + (u * right + v * down) / camera.focal)
            agree.append(seen.surface[row, column] == surface)
            if agree[-1]:
                assert seen.depth[row, column] == pytest.approx(depth, abs=1e-3, rel=1e-4)
    assert len(agree) == 300
    assert sum(agree) >= 299  # single precision may miss an outline by a hair


def test_normals_are_the_slopes_of_the_depth() -> None:
    size = 128
    angles = []
    for index in range(8):
        scene = Scenes().scene("val", index)
        seen = render_scene(scene, (size, size))
        slope = (np.arange(size) + 0.5 - size / 2) / (scene.camera.focal * size / 2)
        u, v = np.meshgrid(slope, slope)
        points = np.stack([u, v, np.ones_like(u)], axis=2) * seen.depth[..., None].astype(np.float64)
        # Central differences; down x right points to the camera.
        across, along = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        normal = np.cross(along, across)
        normal /= np.linalg.norm(normal, axis=2, keepdims=True)
        same = edges(seen.surface * np.uint8(8) + seen.parts)[1:-1, 1:-1] == 0
        cosine = (normal * seen.normals[1:-1, 1:-1]).sum(axis=2)[same]
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    every = np.concatenate(angles)
    assert np.median(every) < 0.2
    assert np.quantile(every, 0.95) < 3  # differences err on round solids, and across the creases of boxes


def test_bands_do_not_show() -> None:
    # The larger image takes several bands, the smaller one; their rays are the same at every third pixel.
    scene = Scenes().scene("train", 4)
    large, small = render_scene(scene, (270, 330)), render_scene(scene, (90, 110))
    assert (large.surface[1::3, 1::3] == small.surface).mean() > 0.999
    np.testing.assert_array_equal(surfaces(scene, (270, 330)), large.surface)


def pattern(name: Pattern, x: list[float], y: list[float], cell: Vec = (1.0, 1.0, 1.0)) -> list[float]:
    material = Material(pattern=name, colours=WHITE.colours, origin=(0.0, 0.0, 0.0), cell=cell)
    u, v = np.array(x, np.float32), np.array(y, np.float32)
    return [float(m) for m in mix(material, u, v, np.zeros_like(u))]


def test_patterns_by_hand() -> None:
    assert pattern(Pattern.STRIPES, [0.1, 0.3, 0.5, -0.1], [0, 9, 0, 0], (0.2, math.inf, 1.0)) == [0, 1, 0, 1]
    assert pattern(Pattern.CHECKER, [0.5, 1.5, 0.5, 1.5, -0.5], [0.5, 0.5, 1.5, 1.5, 0.5]) == [0, 1, 1, 0, 1]
    # Frame, glass, upright bar; frame, sunk field, middle rail; a rug of five rings.
    assert pattern(Pattern.WINDOW, [0.95, 0.5, 0.0], [0.5, 0.5, 0.5]) == [1, 0, 1]
    assert pattern(Pattern.DOOR, [0.9, 0.5, 0.5], [0.5, 0.5, 0.0]) == [0, 1, 0]
    assert pattern(Pattern.RUG, [0.1, 0.3, 0.0, -0.7], [0.0, 0.0, 0.5, 0.7]) == [0, 1, 0, 1]
    # The joint at the left of a brick, moved by half a brick in the next course; the joint below.
    assert pattern(Pattern.BRICKS, [0.02, 0.02, 0.52, 0.5], [0.5, 1.5, 1.5, 0.1]) == [1, 0, 1, 1]
    planks = pattern(Pattern.PLANKS, [0.1, 0.9, 1.1], [0.5, 0.2, 0.5])
    assert planks[0] == planks[1] != planks[2]


def test_noise_is_smooth_and_random() -> None:
    x = [float(v) for v in np.linspace(-20, 20, 4001)]
    values = np.array(pattern(Pattern.NOISE, x, [0.0] * len(x)))
    assert 0 <= values.min() < 0.15
    assert 0.85 < values.max() <= 1
    # Between values in [0, 1] the smooth step 3 t^2 - 2 t^3 is at most 1.5 steep.
    assert np.abs(np.diff(values)).max() < 1.5 * 0.01 + 1e-4
    # ... and flat at the lattice points: 3e-4 at t = 0.01.
    assert np.abs(values[1::100] - values[:-1:100]).max() < 4e-4
    whole = values[::100]  # at the lattice points: as good as independent
    assert abs(np.corrcoef(whole[1:], whole[:-1])[0, 1]) < 0.4
