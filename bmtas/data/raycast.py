"""A small ray-caster: a room with solids in it, seen by a pinhole camera. Needs numpy only.

World axes: x and y on the floor, z up, metres; the room is the box from (0, 0, 0) to `Scene.room`. Camera
axes: x right, y down, z forward. A ray leaves the camera along (u, v, 1) in camera axes, so that the ray's
parameter at a hit is at once the depth of the hit along the optical axis.

All buffers come from one and the same hit per pixel, through the pixel's centre, so labels and image cannot
disagree. Pixels see additions, multiplications, divisions, square roots and comparisons only, never a sine or
a matrix product: those few round in the same way wherever they run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from bmtas.data.textures import F32, Material, Vec, mix

Ids = npt.NDArray[np.uint8]
"""Surface, class or part ids of pixels."""

CLASSES = ("wall", "floor", "ceiling", "window", "door", "picture", "rug", "box", "sphere", "cylinder")
"""What a surface can be."""

PARTS = ("background", "box_top", "box_side", "sphere_upper", "sphere_lower", "cylinder_top", "cylinder_side")
"""Parts of the solids; the room and the panels on it are background."""

FACES = ("wall", "wall", "wall", "wall", "floor", "ceiling")
"""Class of each face of the room: x = 0, x = width, y = 0, y = length, z = 0, z = height."""

_BAND = 16384  # pixels traced at once: their buffers (64 KiB each) stay in the processor's second-level cache
_TINY = 1e-9  # stands for a ray component of 0, so that no division by zero arises


class Shape(str, Enum):
    """The solids; each is a unit solid, [-1, 1] along z, that is stretched, turned about z and moved."""

    BOX = "box"
    SPHERE = "sphere"
    CYLINDER = "cylinder"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera without roll.

    `yaw` turns clockwise seen from above, from looking along +y towards +x; `pitch` turns downwards; both in
    radians. `focal` is the focal length in halves of the image's shorter side, 1 / tan(fov / 2): so the view
    of a square image is in the view of every other aspect.
    """

    position: Vec
    yaw: float
    pitch: float
    focal: float

    @property
    def axes(self) -> tuple[Vec, Vec, Vec]:
        """The camera's x (right), y (down) and z (forward) as unit vectors in world axes."""
        cy, sy, cp, sp = math.cos(self.yaw), math.sin(self.yaw), math.cos(self.pitch), math.sin(self.pitch)
        return (cy, -sy, 0.0), (-sy * sp, -cy * sp, -cp), (sy * cp, cy * cp, -sp)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A rectangle painted on face `face` of the room (index in FACES): a window, a door, a picture, a rug.

    `centre` and `half` (half sizes) are metres in the face's own coordinates: (y, z) on walls x = const,
    (x, z) on walls y = const, (x, y) on floor and ceiling. The texture's coordinates run from -1 to 1.
    """

    label: str
    face: int
    centre: tuple[float, float]
    half: tuple[float, float]
    material: Material


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A box, sphere or upright cylinder: centre and half sizes in metres, `yaw` about z in radians.

    Half sizes of a sphere are thrice its radius, of a cylinder its radius, its radius and half its height.
    Salient solids have the label 1 in the data set's saliency.
    """

    shape: Shape
    centre: Vec
    half: Vec
    material: Material
    yaw: float = 0.0
    salient: bool = False

    def to_unit(self, x: F32, y: F32, z: F32) -> tuple[F32, F32, F32]:
        """Turn and scale vectors from world axes into the axes of the unit solid (without moving them)."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        a, b, h = self.half
        return (c / a) * x + (s / a) * y, (c / b) * y - (s / b) * x, z / h

    def to_world(self, x: F32, y: F32, z: F32) -> tuple[F32, F32, F32]:
        """Turn vectors back into world axes, without scaling."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return c * x - s * y, s * x + c * y, z


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A room `room` = (width, length, height) with everything that an image of it depends on.

    Camera and light are inside the room and outside all solids. `ambient` is the share of light that comes
    from everywhere, the rest comes from the point `light`. `faces` are the materials of FACES.

    Surface ids: 0 to 5 the faces of the room, then the panels, then the solids, in their order here.
    """

    room: Vec
    camera: Camera
    light: Vec
    ambient: float
    faces: tuple[Material, ...]
    panels: tuple[Panel, ...] = ()
    solids: tuple[Solid, ...] = ()

    @property
    def first_solid(self) -> int:
        """Surface id of the first solid."""
        return len(FACES) + len(self.panels)

    @property
    def classes(self) -> Ids:
        """Class id of each surface id, (surfaces,) uint8."""
        names = [*FACES, *(p.label for p in self.panels), *(s.shape.value for s in self.solids)]
        return np.array([CLASSES.index(name) for name in names], np.uint8)

    @property
    def salient(self) -> Ids:
        """1 for each surface id that is salient, else 0, (surfaces,) uint8."""
        return np.array([0] * self.first_solid + [s.salient for s in self.solids], np.uint8)


@dataclass(frozen=True)
class Buffers:
    """What the rays of an image met, (H, W) each unless said otherwise.

    `image` (H, W, 3) uint8 RGB; `surface` uint8 surface ids of the scene; `parts` uint8 ids in PARTS;
    `normals` (H, W, 3) float32 unit vectors in camera axes; `depth` float32 metres along the optical axis.
    """

    image: npt.NDArray[np.uint8]
    surface: Ids
    parts: Ids
    normals: F32
    depth: F32


def render_scene(scene: Scene, size: tuple[int, int]) -> Buffers:
    """Return all buffers of `scene` for an image of `size` (height, width)."""
    height, width = size
    out = Buffers(
        image=np.empty((height, width, 3), np.uint8),
        surface=np.empty(size, np.uint8),
        parts=np.empty(size, np.uint8),
        normals=np.empty((height, width, 3), np.float32),
        depth=np.empty(size, np.float32),
    )
    for rows, ray in _bands(scene.camera, size):
        depth, surface = _trace(scene, ray)
        point = _along(scene.camera.position, ray, depth)
        normal, parts, colour, glow = _describe(scene, surface, point)
        shade = glow + (1 - glow) * _light(scene, point, normal)
        shape = (-1, width)
        out.depth[rows] = depth.reshape(shape)
        out.surface[rows] = surface.reshape(shape)
        out.parts[rows] = parts.reshape(shape)
        for i, (x, y, z) in enumerate(scene.camera.axes):
            out.normals[rows, :, i] = (x * normal[0] + y * normal[1] + z * normal[2]).reshape(shape)
            # + 0.5: the conversion to integers cuts off.
            out.image[rows, :, i] = np.minimum(colour[i] * shade * 255 + 0.5, 255).reshape(shape)
    return out


def surfaces(scene: Scene, size: tuple[int, int]) -> Ids:
    """Return the surface ids alone, (H, W) uint8: a fraction of the work of `render_scene`."""
    bands = [_trace(scene, ray)[1].reshape(-1, size[1]) for _, ray in _bands(scene.camera, size)]
    return np.concatenate(bands)


def edges(surface: Ids) -> Ids:
    """Return 1 where a pixel's surface differs from that of one of its 4 neighbours, else 0, (H, W) uint8.

    Both pixels of such a pair are edge pixels: edges are 2 pixels thick, whatever the size of the image.
    """
    edge = np.zeros(surface.shape, np.uint8)
    down = surface[1:] != surface[:-1]
    right = surface[:, 1:] != surface[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def _bands(camera: Camera, size: tuple[int, int]) -> Iterator[tuple[slice, F32]]:
    """Yield bands of whole rows and their rays, (3, pixels) in world axes, 1 long along the optical axis."""
    height, width = size
    focal = camera.focal * min(size) / 2  # in pixels
    u = ((np.arange(width) + 0.5 - width / 2) / focal).astype(np.float32)
    v = ((np.arange(height) + 0.5 - height / 2) / focal).astype(np.float32)
    step = max(1, _BAND // width)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        ray = np.stack([r * u + (d * v[rows, None] + f) for r, d, f in zip(*camera.axes, strict=True)])
        yield rows, ray.reshape(3, -1)


def _along(origin: Vec, ray: F32, t: F32) -> F32:
    """Return the points origin + t * ray, (3, pixels)."""
    point = ray * t
    for i in range(3):
        point[i] += origin[i]
    return point


def _trace(scene: Scene, ray: F32) -> tuple[F32, Ids]:
    """Return depth and surface id of the nearest hit of each ray from the camera."""
    position = scene.camera.position
    # The room is met from inside, hence where the ray leaves it: at the first of three walls.
    inverse = _inverse(ray)
    leave = [np.maximum(-o * i, (s - o) * i) for o, s, i in zip(position, scene.room, inverse, strict=True)]
    depth = np.minimum(np.minimum(leave[0], leave[1]), leave[2])
    axis = np.where(leave[2] == depth, 2, leave[1] == depth).astype(np.uint8)
    surface = 2 * axis + (ray > 0)[axis, np.arange(axis.size)]  # the far one of two opposite walls is odd
    if scene.panels:
        point = _along(position, ray, depth)
        for k, panel in enumerate(scene.panels, len(FACES)):
            on = surface == panel.face
            for i, c, h in zip(_plane(panel.face), panel.centre, panel.half, strict=True):
                on &= np.abs(point[i] - c) < h
            surface[on] = k
    for k, solid in enumerate(scene.solids, scene.first_solid):
        origin = np.array(position, np.float32)[:, None]
        enter = _enter(solid, origin, ray)
        nearer = enter < depth
        np.copyto(depth, enter, where=nearer)
        surface[nearer] = k
    return depth, surface


def _plane(face: int) -> tuple[int, int]:
    """Return the two world axes that span a face of the room."""
    return ((1, 2), (0, 2), (0, 1))[face // 2]


def _enter(solid: Solid, origin: F32, ray: F32) -> F32:
    """Return the parameter at which each ray enters the solid; infinity where it does not do so ahead.

    A convex solid holds a ray for one interval: the intersection of its slabs' intervals and that of a ball
    or an infinite cylinder. `origin` is (3, 1) or (3, pixels).
    """
    ox, oy, oz = solid.to_unit(*(o - c for o, c in zip(origin, solid.centre, strict=True)))
    dx, dy, dz = solid.to_unit(*ray)
    if solid.shape is Shape.BOX:
        near, far = _both(_slab(ox, dx), _both(_slab(oy, dy), _slab(oz, dz)))
    elif solid.shape is Shape.SPHERE:
        near, far = _ball(dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz, ox * ox + oy * oy + oz * oz)
    else:
        near, far = _both(_ball(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy), _slab(oz, dz))
    return np.where((near < far) & (near > 0), near, np.float32(np.inf))


def _both(a: tuple[F32, F32], b: tuple[F32, F32]) -> tuple[F32, F32]:
    """Return the intersection of two intervals."""
    return np.maximum(a[0], b[0]), np.minimum(a[1], b[1])


def _slab(origin: F32, ray: F32) -> tuple[F32, F32]:
    """Return the interval of the parameter in which origin + t ray is in [-1, 1]."""
    inverse = _inverse(ray)
    middle, reach = -origin * inverse, np.abs(inverse)
    return middle - reach, middle + reach


def _inverse(ray: F32) -> F32:
    """Return 1 / ray, of components too near 0 the inverse of a tiny number."""
    safe: F32 = np.where(np.abs(ray) < _TINY, np.float32(_TINY), ray)
    return np.reciprocal(safe)


def _ball(dd: F32, od: F32, oo: F32) -> tuple[F32, F32]:
    """Return the interval in which |o + t d| < 1, from the products d.d, o.d and o.o; (0, 0) for a miss."""
    dd = np.maximum(dd, np.float32(_TINY**2))
    discriminant = od * od - dd * (oo - 1)
    root = np.sqrt(np.maximum(discriminant, 0))
    inverse = np.where(discriminant > 0, 1 / dd, np.float32(0))
    return (-od - root) * inverse, (root - od) * inverse


def _describe(scene: Scene, surface: Ids, point: F32) -> tuple[F32, Ids, F32, F32]:
    """Return normals in world axes (3, pixels), part ids, unlit colours (3, pixels), and glow of all hits."""
    normal = np.zeros(point.shape, np.float32)
    colour = np.empty(point.shape, np.float32)
    parts = np.zeros(surface.shape, np.uint8)
    glow = np.empty(surface.shape, np.float32)
    for k, at in _groups(surface):
        x, y, z = point[:, at]
        if k < scene.first_solid:
            panel = scene.panels[k - len(FACES)] if k >= len(FACES) else None
            face = panel.face if panel else k
            normal[face // 2, at] = -1 if face % 2 else 1
            u, v = ((x, y, z)[i] for i in _plane(face))
            if panel:
                u, v = (u - panel.centre[0]) / panel.half[0], (v - panel.centre[1]) / panel.half[1]
            material = panel.material if panel else scene.faces[k]
            mixed = mix(material, u, v, np.zeros_like(u))
        else:
            solid = scene.solids[k - scene.first_solid]
            material = solid.material
            cx, cy, cz = solid.centre
            unit = solid.to_unit(x - cx, y - cy, z - cz)
            *outward, parts[at] = _skin(solid, *unit)
            for i, n in enumerate(solid.to_world(*outward)):
                normal[i, at] = n
            mixed = mix(material, *(p * h for p, h in zip(unit, solid.half, strict=True)))
        for i in range(3):
            a, b = material.colours[0][i], material.colours[1][i]
            colour[i, at] = a + (b - a) * mixed
        glow[at] = material.glow
    return normal, parts, colour, glow


def _groups(surface: Ids) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Yield each surface id that occurs and the indices of its pixels."""
    order = np.argsort(surface, kind="stable")
    counts = np.bincount(surface).tolist()
    for k, (end, count) in enumerate(zip(accumulate(counts), counts, strict=True)):
        if count:
            yield k, order[end - count : end]


def _skin(solid: Solid, x: F32, y: F32, z: F32) -> tuple[F32, F32, F32, Ids]:
    """Return outward normal in the solid's own axes and part id for points on the skin of the unit solid."""
    if solid.shape is Shape.SPHERE:
        scale = 1 / np.sqrt(x * x + y * y + z * z)
        return x * scale, y * scale, z * scale, _part(z >= 0, "sphere_upper", "sphere_lower")
    if solid.shape is Shape.BOX:
        ax, ay, az = np.abs(x), np.abs(y), np.abs(z)
        on_z = az > np.maximum(ax, ay)
        on_x = ~on_z & (ax > ay)
        on_y = ~on_z & ~on_x
        nx, ny, nz = (np.where(on, np.sign(c), 0) for on, c in ((on_x, x), (on_y, y), (on_z, z)))
        return nx, ny, nz, _part(on_z, "box_top", "box_side")
    radius = np.sqrt(x * x + y * y)
    cap = np.abs(z) > radius
    scale = np.where(cap, 0, 1 / np.maximum(radius, np.float32(_TINY)))
    return x * scale, y * scale, np.where(cap, np.sign(z), 0), _part(cap, "cylinder_top", "cylinder_side")


def _part(condition: npt.NDArray[np.bool_], yes: str, no: str) -> Ids:
    """Return the part id of `yes` where the condition holds, else that of `no`."""
    return np.where(condition, np.uint8(PARTS.index(yes)), np.uint8(PARTS.index(no)))


def _light(scene: Scene, point: F32, normal: F32) -> F32:
    """Return the brightness of each hit, about 0 to 1: ambient light, and Lambert's cosine law for the lamp.

    Some of the ambient light comes from above, so that what the lamp does not reach has shape too. The lamp's
    light weakens with distance more slowly than by the square, as it does in a room whose walls reflect. The
    square root stands for the gamma curve of a camera.
    """
    ray = -point
    for i in range(3):
        ray[i] += scene.light[i]
    distance2 = ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]
    cosine = (ray[0] * normal[0] + ray[1] * normal[1] + ray[2] * normal[2]) / np.sqrt(distance2)
    lamp = np.maximum(cosine, 0) * (8 / (8 + distance2))
    for solid in scene.solids:
        # The lamp is at parameter 1. No solid shades itself here: on its lit side, rays to the lamp leave it.
        lamp[_enter(solid, point, ray) < 1] = 0
    light = scene.ambient * (0.75 + 0.25 * normal[2]) + (1 - scene.ambient) * 1.5 * lamp
    return np.sqrt(light)
