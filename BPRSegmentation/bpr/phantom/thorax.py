"""Lungs with their vessels, airways, esophagus, heart and great vessels."""

from __future__ import annotations

import numpy as np

from bpr.phantom.canvas import Canvas, path
from bpr.phantom.envelope import inside_cage
from bpr.phantom.plan import SPINE_Y, BodyPlan, profile
from bpr.segmentation.labels import structure_by_id

AIR_HU, LUNG_HU = -990, -850
# Half width of the mediastinum by height.
MEDIASTINUM = profile((0, 24), (60, 26), (120, 26), (170, 30), (205, 27), (230, 22), (256, 18))


def spine_y(z: float) -> float:
    """y of the middle of the vertebral bodies at one height."""
    return float(SPINE_Y(z)[0, 0])


def value(identifier: str) -> int:
    """Label value of a structure of the label table."""
    return structure_by_id(identifier).value


def paint_thorax(canvas: Canvas, plan: BodyPlan) -> None:
    """Everything between neck and diaphragm that is not bone; call after ``paint_envelope``."""
    _lungs(canvas, plan)
    _heart(canvas, plan)
    _veins(canvas, plan)
    _aorta(canvas, plan)
    _airways(canvas, plan)
    _esophagus(canvas, plan)


def _lungs(canvas: Canvas, plan: BodyPlan) -> None:
    base, apex = plan.at("lung_base"), plan.at("lung_apex")
    low, high = (-135, -120, base - 2), (135, 80, apex)
    canvas.where(low, high, lambda x, y, z: inside_cage(x, y, z, -1) & (z > plan.diaphragm(x, y)), -15)
    for side, name in ((1, "lung_left"), (-1, "lung_right")):

        def inside(x, y, z, side=side):
            middle = MEDIASTINUM(z.ravel()).reshape(-1, 1, 1) - 10 * np.clip((-30 - y) / 60, 0, 1)
            return inside_cage(x, y, z, 2) & (side * x > middle) & (z > plan.diaphragm(x, y) + 1)

        canvas.where(low, high, inside, LUNG_HU, value(name))
        _lung_vessels(canvas, plan, side)


def _lung_vessels(canvas: Canvas, plan: BodyPlan, side: int) -> None:
    """Random branching tubes from the hilum outwards, painted only where lung is."""
    hilum = np.array([side * 34.0, -18.0, plan.at("carina") - 22])
    lung = canvas.labels == value("lung_left" if side > 0 else "lung_right")
    if not lung.any():
        return
    before = canvas.hu.copy()
    hu = 40 + 130 * plan.contrast
    for _ in range(16):
        angle, rise = plan.rng.uniform(-2.2, 1.5), plan.rng.uniform(-1.2, 1.0)
        way = np.array([side * abs(np.cos(angle)) * 75, np.sin(angle) * 70, rise * 80])
        bend = plan.rng.normal(0, 9, 3)
        line = path([hilum, hilum + 0.45 * way + bend, hilum + way], 5)
        canvas.tube(line, np.linspace(5.0, 1.2, len(line)), hu, None)
        for start in (4, 6, 8):
            twig = line[start] + np.array([plan.rng.normal(0, 25), plan.rng.normal(0, 25), plan.rng.normal(0, 30)])
            canvas.tube(path([line[start], twig], 2), np.linspace(2.4, 0.9, 3), hu, None)
    np.copyto(canvas.hu, before, where=~lung)


def _heart(canvas: Canvas, plan: BodyPlan) -> None:
    bottom, top = plan.at("heart_bottom"), plan.at("carina") - 26
    center, radii = np.array([20, -52, (bottom + top) / 2]), np.array([54, 46, (top - bottom) / 2])
    shear = (-0.35, 0.28)
    canvas.ellipsoid(center, radii + (7, 7, 3), -95, shear=shear)
    canvas.ellipsoid(center, radii, 48 + 70 * plan.contrast, value("heart"), shear=shear, lumps=0.06)
    blood = 42 + 190 * plan.contrast
    for offset, size in (
        ((20, 6, -8), (20, 19, 0.55)),
        ((-20, -14, -6), (17, 17, 0.5)),
        ((-24, 6, 8), (16, 16, 0.5)),
        ((4, 24, 14), (20, 12, 0.4)),
    ):
        canvas.ellipsoid(center + offset, (size[0], size[1], size[2] * radii[2]), blood, None, shear=shear)
    canvas.tube(path([(8, -62, top - 20), (14, -58, top + 8), (22, -30, top + 14), (52, -16, top + 8)], 5), 12, blood)
    canvas.tube(path([(14, -52, top + 8), (-12, -36, top + 8), (-44, -18, top)], 5), 10, blood)


def _veins(canvas: Canvas, plan: BodyPlan) -> None:
    hu = 42 + 120 * plan.contrast
    top = plan.at("sternal_notch")
    canvas.tube(
        path([(-28, -44, plan.at("carina") - 30), (-28, -48, plan.at("carina") + 10), (-26, -46, top - 12)]), 9, hu
    )
    canvas.tube(path([(50, -34, top + 4), (10, -58, top - 8), (-26, -46, top - 16)]), 6, hu)
    for side in (-1, 1):
        canvas.tube(path([(side * 26, -46, top - 8), (side * 34, -26, top + 40), (side * 36, -22, 345)]), 6.5, hu)
        canvas.tube(
            path([(side * 14, -36, top - 8), (side * 24, -28, top + 40), (side * 26, -20, 345)]),
            4,
            42 + 200 * plan.contrast,
        )


def _aorta(canvas: Canvas, plan: BodyPlan) -> None:
    carina, arch, hu = plan.at("carina"), plan.at("aortic_arch_top"), 42 + 220 * plan.contrast
    down = [(26, spine_y(z) - 30 + 0.02 * z, z) for z in (carina, 120, 70)]
    down += [
        (14, spine_y(30) - 34, 30),
        (8, spine_y(-20) - 36, -20),
        (4, spine_y(-80) - 36, -80),
        (2, spine_y(-120) - 34, -120),
    ]
    radius = 13.0
    line = [
        (2, -50, carina - 28),
        (-14, -56, carina),
        (-8, -50, arch - radius - 6),
        (6, -38, arch - radius),
        (20, -20, arch - radius - 4),
    ]
    line = path(line + down, 6)
    thick = np.interp(np.arange(len(line)), [0, 24, 40, 66], [15, radius, 11.5, 8.5])
    canvas.tube(line, thick, hu, value("aorta"))
    for side in (-1, 1):
        iliac = [
            (2, spine_y(-120) - 34, -122),
            (side * 30, spine_y(-160) - 30, -165),
            (side * 58, -30, -205),
            (side * 84, -72, -258),
            (side * 92, -64, -390),
        ]
        canvas.tube(path(iliac, 4), 5.5, 42 + 160 * plan.contrast)
        canvas.tube(path(np.add(iliac[1:], (side * 2, 13, 0)), 4), 6.5, 42 + 90 * plan.contrast)


def _airways(canvas: Canvas, plan: BodyPlan) -> None:
    carina, notch = plan.at("carina"), plan.at("sternal_notch")
    top = plan.at("c7_t1") + 20
    course = profile((carina, spine_y(carina) - 40), (notch, spine_y(notch) - 36), (top, -34), (345, -32), (372, -34))

    def axis(z, radius):
        return np.stack([0 * z - 1, course(z)[:, 0], 0 * z + radius, 0 * z + radius], -1)

    canvas.column((carina, 345), lambda z: axis(z, 10.5), 20)
    for side, drop in ((-1, -30), (1, -24)):
        bronchus = path(
            [
                (-1, float(course(carina)[0, 0]), carina - 4),
                (side * 20, -14, carina - 16),
                (side * 40, -12, carina + drop),
            ],
            4,
        )
        canvas.tube(bronchus, np.linspace(8, 5.5, len(bronchus)) + 2, 15)
        canvas.tube(bronchus, np.linspace(7, 5, len(bronchus)), AIR_HU)
    canvas.column((carina, top), lambda z: axis(z, 8.5), AIR_HU, value("trachea"))
    canvas.column((top + 1e-3, 372), lambda z: axis(z, 7.5), AIR_HU)


def _esophagus(canvas: Canvas, plan: BodyPlan) -> None:
    hiatus = 44.0
    course = profile(
        (hiatus, 18, -34), (80, 12, -32), (130, 6, -29), (180, 4, -25), (220, 5, -22), (256, 2, -20), (290, 0, -18)
    )

    def axis(z, radius):
        x, behind = course(z).T
        return np.stack([x, SPINE_Y(z)[:, 0] + behind, 0 * z + radius, 0 * z + 0.75 * radius], -1)

    canvas.column((hiatus, 285), lambda z: axis(z, 9), 40, value("esophagus"))
    canvas.column((185, 225), lambda z: axis(z, 3.5), -600, None)
