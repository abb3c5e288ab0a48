"""Skull, brain, face and neck."""

from __future__ import annotations

import numpy as np

from bpr.phantom.canvas import Canvas, path
from bpr.phantom.plan import BodyPlan, profile

CORTEX_HU, BRAIN_HU, CSF_HU, AIR_HU, TOOTH_HU = 1050, 36, 9, -980, 1700


def paint_head(canvas: Canvas, plan: BodyPlan) -> None:
    """Everything above the larynx that is not spine; call after ``paint_envelope`` and before the spine."""
    _neck(canvas, plan)
    _cranium(canvas, plan)
    _face(canvas, plan)
    _mandible(canvas, plan)


def _cranium(canvas: Canvas, plan: BodyPlan) -> None:
    dens, top = plan.at("c1_dens_tip"), plan.at("skull_top")
    base = dens + 8
    half = (top - base) / 2
    vault = profile(
        (base, -2, 42, 44),
        (base + 14, -8, 62, 68),
        (base + 35, -14, 69, 84),
        (base + half, -16, 73, 90),
        (base + 1.45 * half, -16, 68, 82),
        (base + 1.75 * half, -16, 52, 63),
        (top - 6, -16, 30, 38),
        (top, -16, 6, 9),
    )

    def axis(z):
        y, rx, ry = vault(z).T
        return np.stack([0 * z, y, rx, ry], -1)

    canvas.column((base, top), axis, CORTEX_HU, power=2.1)
    canvas.column((base + 6, top - 6.5), axis, CSF_HU, power=2.1, grow=-6.5)
    canvas.column((base + 8, top - 9), axis, BRAIN_HU, power=2.1, grow=-9)
    middle = base + half
    for side in (-1, 1):
        canvas.ellipsoid((side * 11, -20, middle + 10), (6, 32, 12), CSF_HU, shear=(0, 0.2))
        canvas.tube(np.array([(side * 22, -10, base + 8), (side * 64, 6, base + 16)]), (12, 10), CORTEX_HU - 250)
        canvas.ellipsoid((side * 60, 14, base + 10), (7, 9, 9), -500)
    canvas.where(
        (-1, -110, middle), (1, 80, top - 8), lambda x, y, z: (z > middle + 24 + 0 * x) & (np.abs(y + 16) < 78), 60
    )
    canvas.ellipsoid((0, 12, base + 4), (14, 15, 10), CSF_HU + 20)
    canvas.ellipsoid((0, 12, base + 18), (11, 11, 20), BRAIN_HU + 4)


def _face(canvas: Canvas, plan: BodyPlan) -> None:
    dens, orbit = plan.at("c1_dens_tip"), plan.at("orbit_center")
    canvas.ellipsoid((0, -84, orbit - 28), (38, 22, 30), 420)
    canvas.ellipsoid((0, -72, orbit - 26), (46, 22, 20), 300)
    canvas.ellipsoid((0, -90, orbit + 24), (30, 10, 14), 700)
    canvas.ellipsoid((0, -91, orbit + 24), (22, 5, 10), AIR_HU)
    for side in (-1, 1):
        canvas.ellipsoid((side * 33, -84, orbit), (22, 24, 20), 620)
        canvas.ellipsoid((side * 33, -86, orbit), (18, 26, 16.5), -90)
        canvas.ellipsoid((side * 33, -96, orbit), (12, 12, 12), 22)
        canvas.tube(np.array([(side * 33, -84, orbit), (side * 14, -58, orbit + 2)]), 3, 40)
        canvas.tube(
            path([(side * 50, -86, orbit - 16), (side * 66, -50, orbit - 18), (side * 68, -12, orbit - 18)]), 4.5, 800
        )
        canvas.ellipsoid((side * 27, -78, orbit - 26), (13, 16, 17), AIR_HU)
        canvas.ellipsoid((side * 8, -84, orbit - 18), (5, 30, 24), AIR_HU)
        canvas.ellipsoid((side * 9, -66, orbit + 2), (6, 18, 8), AIR_HU)
    canvas.ellipsoid((0, -48, orbit - 10), (12, 11, 10), AIR_HU)
    canvas.ellipsoid((0, -102, orbit - 14), (9, 17, 18), 30, shear=(0, -0.35))
    canvas.tube(path([(0, -56, orbit - 20), (0, -36, dens - 6), (0, -34, 345)]), 9, AIR_HU)
    canvas.ellipsoid((0, -70, dens - 18), (24, 28, 18), 58)


def _mandible(canvas: Canvas, plan: BodyPlan) -> None:
    bottom, dens = plan.at("mandible_bottom"), plan.at("c1_dens_tip")
    for side in (-1, 1):
        body = [
            (0, -100, bottom + 9),
            (side * 24, -92, bottom + 10),
            (side * 42, -60, bottom + 14),
            (side * 47, -32, bottom + 24),
        ]
        ramus = [(side * 47, -32, bottom + 24), (side * 50, -24, dens), (side * 51, -18, dens + 18)]
        for line, radius in ((path(body), 9.0), (path(ramus), 6.5)):
            canvas.tube(line, radius, 1150)
            canvas.tube(line, radius - 4, 350)
        for level in (bottom + 22, bottom + 36):
            arc = [(side * 38 * np.sin(a), -58 - 36 * np.cos(a), level) for a in np.linspace(0, 1.4, 8)]
            canvas.tube(np.array(arc), 4.2, TOOTH_HU)


def _neck(canvas: Canvas, plan: BodyPlan) -> None:
    """Fat between the neck's muscles, thyroid and larynx."""
    for side in (-1, 1):
        canvas.tube(np.array([(side * 34, -20, 258), (side * 40, -14, 300), (side * 46, -8, 345)]), 9, -80)
        canvas.tube(path([(side * 24, -46, 240), (side * 44, -22, 300), (side * 56, 14, 365)]), 9, 56)
        canvas.tube(np.array([(side * 12, 28, 280), (side * 14, 34, 360)]), 3, -85)
        canvas.ellipsoid((side * 17, -38, 272), (9, 11, 21), 105)
    canvas.tube(np.array([(0, -52, 290), (0, -48, 320)]), 15, 90)
