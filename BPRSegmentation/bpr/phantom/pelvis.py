"""Hip bones, sacrum and femurs."""

from __future__ import annotations

import numpy as np

from bpr.phantom.canvas import Canvas, path
from bpr.phantom.plan import BodyPlan, profile
from bpr.phantom.thorax import value

CORTEX_HU, SPONGE_HU = 680, 190
HEAD_X, HEAD_Y = 90.0, -16.0  # center of the femoral head


def paint_pelvis(canvas: Canvas, plan: BodyPlan) -> None:
    """Bones below L5; call after the soft organs and before the spine."""
    _sacrum(canvas, plan)
    for side, name in ((1, "left"), (-1, "right")):
        _hip(canvas, plan, side, value(f"hip_{name}"))
        _femur(canvas, plan, side, value(f"femur_{name}"))


def _sacrum(canvas: Canvas, plan: BodyPlan) -> None:
    top = plan.at("l5_s1")
    course = profile(
        (top - 112, 42, 7, 5),
        (top - 95, 56, 10, 7),
        (top - 75, 58, 24, 10),
        (top - 45, 44, 42, 14),
        (top - 22, 26, 52, 17),
        (top - 8, 14, 48, 19),
        (top, 6, 30, 17),
    )

    def axis(z):
        y, rx, ry = course(z).T
        return np.stack([0 * z, y, rx, ry], -1)

    label = value("sacrum")
    canvas.column((top - 112, top), axis, CORTEX_HU - 150, label, power=2.4)
    canvas.column((top - 108, top - 3), axis, SPONGE_HU, label, power=2.4, grow=-3)
    for z in (top - 24, top - 46, top - 66):
        for side in (-1, 1):
            canvas.ellipsoid((side * 20, float(course(z)[0, 0]) - 2, z), (5, 9, 4), 30)


def _hip(canvas: Canvas, plan: BodyPlan, side: int, label: int) -> None:
    """Wing as a fan of rods between acetabulum and crest, a cup, and the ring of pubis and ischium."""
    crest, head, pubis, seat = (
        plan.at(name) for name in ("iliac_crest_top", "femoral_head_center", "pubic_symphysis_top", "ischium_bottom")
    )
    cup = np.array([HEAD_X, HEAD_Y, head])
    rim = path(
        [
            (118, -72, crest - 78),
            (128, -60, crest - 42),
            (126, -26, crest - 6),
            (104, 14, crest - 10),
            (64, 48, crest - 34),
            (46, 62, crest - 62),
        ],
        6,
    )
    foot = np.linspace((98, -36, head + 30), (72, 30, head + 44), len(rim))
    mirror = np.array([side, 1.0, 1.0])
    for start, end in zip(foot, rim, strict=True):
        middle = (start + end) / 2 - (7, 0, 0)
        canvas.tube(path([start, middle, end], 3) * mirror, (9, 6, 4.2, 4, 4, 4.2, 5), CORTEX_HU, label)
    for start, end in zip(foot, rim, strict=True):
        canvas.tube(
            path([start, (start + end) / 2 - (7, 0, 0), end], 3) * mirror,
            (6.5, 3.5, 1.6, 1.2, 1.2, 1.6, 2.8),
            SPONGE_HU + 60,
            label,
        )
    canvas.tube(rim * mirror, 6.0, CORTEX_HU, label)
    canvas.tube(rim * mirror, 3.2, SPONGE_HU + 60, label)
    canvas.ellipsoid((cup + (-8, 4, 3)) * mirror, (30, 30, 34), CORTEX_HU, label)
    canvas.ellipsoid((cup + (-14, 6, 6)) * mirror, (20, 22, 24), SPONGE_HU, label)
    symphysis = (9, -78, pubis - 17)
    upper = path([(68, -40, head + 6), (40, -72, pubis - 8), symphysis], 4)
    lower = path([symphysis, (26, -62, pubis - 36), (52, -6, seat + 18)], 4)
    back = path([(76, 14, head - 4), (70, 26, head - 34), (58, 18, seat + 15)], 4)
    for line, thick in ((upper, (11, 8)), (lower, (9, 8)), (back, (19, 15))):
        radii = np.linspace(*thick, len(line))
        canvas.tube(line * mirror, radii, CORTEX_HU, label)
        canvas.tube(line * mirror, radii - 3, SPONGE_HU, label)
    canvas.ellipsoid(np.array(symphysis) * mirror, (7, 11, 17), CORTEX_HU - 100, label)


def _femur(canvas: Canvas, plan: BodyPlan, side: int, label: int) -> None:
    head, trochanter = plan.at("femoral_head_center"), plan.at("lesser_trochanter")
    mirror = np.array([side, 1.0, 1.0])
    cup = np.array([HEAD_X, HEAD_Y, head])
    canvas.ellipsoid(cup * mirror, (27, 27, 27), 60)
    neck = np.array([cup, (116, -2, head - 26)])
    shaft = path([(122, 4, head - 22), (118, 2, trochanter - 8), (110, -8, -380), (98, -14, -560)], 5)
    lump = np.array([(124, 6, head - 6), (124, 4, head - 34)])
    lesser = np.array([(112, 4, trochanter), (103, 12, trochanter)])
    for shell in (0.0, 3.5):
        hu = (CORTEX_HU + 150) if shell == 0 else SPONGE_HU + 20
        canvas.tube(neck * mirror, 15 - shell, hu, label)
        canvas.tube(lump * mirror, 14 - shell, hu, label)
        canvas.ellipsoid(cup * mirror, (24 - 0.6 * shell,) * 3, hu, label)
        canvas.tube(lesser * mirror, 8 - shell, hu, label)
        canvas.tube(
            shaft * mirror, np.linspace(16, 13.5, len(shaft)) - 1.4 * shell, hu if shell == 0 else hu - 150, label
        )
    canvas.tube(shaft[5:] * mirror, 7.0, -40, label)
