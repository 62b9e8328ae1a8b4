"""Thickness maps of a whole phantom: millimetres of each material along the ray, and the mask of the lesion.

H, W: rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.body.anatomy import Anatomy
from phantoms.body.conditions import Condition
from phantoms.body.solids import F, Lump, Strand, Tube
from phantoms.imaging.camera import Camera
from phantoms.imaging.filters import blur, cubed, stretch, textures
from phantoms.imaging.shadows import lump_shadow, tube_shadow


@dataclass
class Thickness:
    """Millimetres of each material along the ray, [H, W]."""

    bone: np.ndarray
    metal: np.ndarray
    soft: np.ndarray  # organs inside the body, added
    air: np.ndarray  # taken away from the body
    mask: np.ndarray  # bool


def project_solids(anatomy: Anatomy, camera: Camera, condition: Condition) -> Thickness:
    """Add up the solids. The parts of a group are one body: the largest outer and the largest hollow at each pixel."""
    maps = Thickness(*(np.zeros(camera.shape, F) for _ in range(4)), np.zeros(camera.shape, bool))
    groups: dict[str, list] = {}
    for solid in [*anatomy.solids, *condition.solids]:
        if not isinstance(solid, Strand):
            groups.setdefault(f"{solid.material}/{solid.group or solid.name}", []).append(solid)
    for salt, (key, solids) in enumerate(groups.items()):
        target = getattr(maps, key.split("/")[0])
        project_group(solids, camera, condition, target, maps.mask, salt)
    ribs = strand_thickness(
        [solid for solid in anatomy.solids if isinstance(solid, Strand)], camera
    )
    if ribs is not None:
        maps.bone += ribs
    if condition.zone is not None:
        shadow = lump_shadow(condition.zone, camera)
        if shadow is not None:
            maps.mask.ravel()[shadow.index[shadow.outer > 0]] = True
    return maps


def project_group(
    solids: list,
    camera: Camera,
    condition: Condition,
    target: np.ndarray,
    mask: np.ndarray,
    salt: int,
) -> None:
    """Add one body to the map `target` and its lesion to `mask`."""
    several = len(solids) > 1
    outer_map, hollow_map = (
        (np.zeros(camera.shape, F), np.zeros(camera.shape, F)) if several else (None, None)
    )
    cuts = []
    changes = []
    for i, solid in enumerate(solids):
        if isinstance(solid, Tube):
            change = condition.change if condition.host == solid.name else None
            shadow = tube_shadow(solid, camera, change, salt + i)
        else:
            shadow = lump_shadow(solid, camera, salt + i)
        if shadow is None:
            continue
        if isinstance(solid, Lump) and solid.keep is not None:
            cuts.append((solid.keep, solid.axes[2], shadow))
            continue
        if shadow.hit is not None:
            mask.ravel()[shadow.index[shadow.hit]] = True
        if shadow.change is not None:
            changes.append(shadow)
        if not several:
            gain, loss = shadow.change[:2] if shadow.change else (1, 1)
            target.ravel()[shadow.index] += shadow.outer * gain - shadow.hollow * loss
            return
        flat_outer = outer_map.ravel()
        flat_hollow = hollow_map.ravel()
        flat_outer[shadow.index] = np.maximum(flat_outer[shadow.index], shadow.outer)
        flat_hollow[shadow.index] = np.maximum(flat_hollow[shadow.index], shadow.hollow)
    if not several:
        return
    for keep, depth, shadow in cuts:
        factor = 1 - F(1 - keep) * np.minimum(shadow.outer / F(2 * depth), 1) ** 2
        outer_map.ravel()[shadow.index] *= factor
        hollow_map.ravel()[shadow.index] *= factor
    for shadow in changes:
        outer_map.ravel()[shadow.index] *= shadow.change.outer
        hollow_map.ravel()[shadow.index] *= shadow.change.hollow
    target += np.maximum(outer_map - hollow_map, 0)


def strand_thickness(strands: list[Strand], camera: Camera) -> np.ndarray | None:
    """Thickness [H, W] of curved ribs: samples of their volume, each spread on the pixel that it falls on."""
    if not strands:
        return None
    step = 0.7 * camera.mm
    indices = []
    weights = []
    height, width = camera.shape
    for strand in strands:
        arc = np.concatenate(
            [[0], np.cumsum(np.linalg.norm(np.diff(strand.points, axis=0), axis=1))]
        )
        s = np.arange(0, arc[-1], step)
        axis = np.stack([np.interp(s, arc, strand.points[:, i]) for i in range(3)], 1)
        tangent = np.gradient(axis, step, axis=0)
        fade = np.clip(np.minimum(s, arc[-1] - s) / (0.1 * arc[-1]), 0, 1)[
            :, None
        ]  # into cartilage
        up = np.array([0, 1.0, 0]) - tangent * tangent[:, 1:2]
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        through = np.cross(tangent, up)
        rows = max(int(2 * strand.half_width / step), 5)
        u, v = np.meshgrid(
            (np.arange(rows) + 0.5) / rows * 2 - 1, np.linspace(-0.75, 0.75, 4), indexing="ij"
        )
        r = np.sqrt(u * u + (v * 0.9) ** 2).ravel()
        u = u.ravel()[r < 1]
        v = v.ravel()[r < 1]
        density = np.where(r[r < 1] > 1 - strand.cortex / strand.half_depth, 1.0, strand.fill)
        volume = (
            step * (2 * strand.half_width / rows) * (2 * strand.half_depth / 4)
        )  # mm3 per sample
        base = (
            (axis - camera.centre) @ camera.rotation[:2].T / camera.mm
            + np.array([width, height]) / 2
            + camera.shift
        )
        across_x, across_y = ((up @ camera.rotation[:2].T) * strand.half_width / camera.mm).T
        deep_x, deep_y = ((through @ camera.rotation[:2].T) * strand.half_depth / camera.mm).T
        x = (base[:, :1] + across_x[:, None] * u + deep_x[:, None] * v).astype(np.int32)
        y = (base[:, 1:] + across_y[:, None] * u + deep_y[:, None] * v).astype(np.int32)
        seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        indices.append((y * width + x)[seen])
        weights.append((fade * density * (volume / camera.mm**2))[seen])
    total = np.bincount(np.concatenate(indices), np.concatenate(weights), minlength=height * width)
    return blur(total.reshape(height, width).astype(F), 0.7)


def soft_thickness(
    anatomy: Anatomy, camera: Camera, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres of the whole body and of its lean core, [H, W]; drawn at half the resolution."""
    height, width = (side // 2 for side in camera.shape)
    xs = np.arange(width, dtype=F) * 2 + 1
    ys = (np.arange(height, dtype=F) * 2 + 1)[:, None]
    body = np.zeros((height, width), F)
    lean = np.zeros((height, width), F)
    for capsule in anatomy.soft:
        start = camera.pixel(capsule.start)
        end = camera.pixel(capsule.end)
        run = end - start
        length = max(float(np.hypot(*run)), 1e-3)
        run /= length
        t = xs * F(run[0]) + ys * F(run[1]) - F(start @ run)
        d = ys * F(run[0]) - xs * F(run[1]) - F(start[1] * run[0] - start[0] * run[1])
        on_axis = np.clip(t, 0, F(length))
        squared = (d * d + (t - on_axis) ** 2) * F(camera.mm**2)
        if length * camera.mm < 0.6 * np.linalg.norm(capsule.end - capsule.start):
            continue  # a limb seen end on, as its bones
        radius = (
            F(capsule.start_radius)
            + F((capsule.end_radius - capsule.start_radius) / length) * on_axis
        )
        across3 = camera.rotation[:2].T @ np.array([-run[1], run[0]])
        flat = min(abs(float(across3 @ capsule.flat)), 1.0)
        seen = np.hypot(np.sqrt(1 - flat**2), capsule.depth * flat)
        deep = F(2 * capsule.depth / seen**2)
        body += cubed(np.maximum((radius * F(seen)) ** 2 - squared, 0) * deep**2)
        core = np.maximum(radius - F(capsule.fat_mm), 0)
        lean += cubed(np.maximum((core * F(seen)) ** 2 - squared, 0) * deep**2)
    body, lean = (
        np.sqrt(np.cbrt(total)) for total in (body, lean)
    )  # a smooth maximum: the norm of order 6
    mottle = np.roll(textures()[1], rng.integers(0, 512, 2), (0, 1))[
        tuple(np.ogrid[:height, :width])[0] & 511, np.arange(width) & 511
    ]
    lean *= 1 + F(0.05) * mottle
    body, lean = np.maximum(body, lean), np.minimum(lean, body)
    return stretch(blur(body, 0.7), camera.shape), stretch(blur(lean, 0.9), camera.shape)
