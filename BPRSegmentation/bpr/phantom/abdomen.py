"""Liver, gallbladder, spleen, stomach, pancreas, kidneys, psoas, bowel and bladder."""

from __future__ import annotations

import numpy as np

from bpr.phantom.canvas import Canvas, path
from bpr.phantom.envelope import cavity
from bpr.phantom.plan import BodyPlan, profile
from bpr.phantom.thorax import spine_y, value

BOWEL_HU, GAS_HU, STOOL_HU = 32, -960, -40


def paint_abdomen(canvas: Canvas, plan: BodyPlan) -> None:
    """Everything between diaphragm and pelvic floor that is not bone; call after ``paint_envelope``."""
    _bowel(canvas, plan)
    _stomach(canvas, plan)
    _liver(canvas, plan)
    _spleen(canvas, plan)
    _pancreas(canvas, plan)
    _kidneys(canvas, plan)
    _vena_cava(canvas, plan)
    _iliopsoas(canvas, plan)
    _pelvis(canvas)


def inside_cavity(x: np.ndarray, y: np.ndarray, z: np.ndarray, inset: float = 0.0) -> np.ndarray:
    """True inside the abdominal cavity, ``inset`` mm from its wall; z of shape (nz, 1, 1)."""
    _, cy, rx, ry = (column.reshape(-1, 1, 1) for column in cavity(z.ravel()).T.astype(np.float32))
    return np.abs(x / (rx - inset)) ** 2.3 + np.abs((y - cy) / (ry - inset)) ** 2.3 <= 1


def _liver(canvas: Canvas, plan: BodyPlan) -> None:
    bottom, dome = plan.at("liver_bottom"), plan.at("right_dome")

    def inside(x, y, z):
        lower = bottom + 0.6 * np.maximum(0.0, x + 92) + 1.2 * np.maximum(0.0, x - 12) + 0.5 * np.maximum(0.0, y + 34)
        left_lobe = (x < -8) | (y < -46 + 0.25 * x)
        behind = (y < 10) | (x < -36)
        roof = plan.diaphragm(x, y)
        return inside_cavity(x, y, z, 3) & (z > lower) & (z < roof) & left_lobe & behind

    hu = 58 + 52 * plan.contrast
    canvas.where((-125, -125, bottom), (75, 60, dome), inside, hu, value("liver"), spare=value("heart"))
    if plan.contrast > 0:
        for end in ((-95, -60, 45), (-80, 5, 55), (-60, -80, 60), (-20, -85, 60), (-80, -30, 20)):
            line = path([(-42, -36, 28), (np.mean([-42, end[0]]), -40, 38), end], 4)
            canvas.tube(line, np.linspace(6, 2, len(line)), hu + 45 * plan.contrast, None)
    canvas.ellipsoid((-62, -82, bottom + 38), (15, 21, 24), 8, value("gallbladder"), shear=(0.2, -0.2))


def _spleen(canvas: Canvas, plan: BodyPlan) -> None:
    top = plan.at("spleen_top")
    center, radii = (94, 12, top - 44), (23, 42, 44)
    canvas.ellipsoid(center, radii, 50 + 70 * plan.contrast, value("spleen"), shear=(-0.1, 0.05), lumps=0.12, phase=1.0)


def _stomach(canvas: Canvas, plan: BodyPlan) -> None:
    """Fundus under the left dome, body downwards, antrum across; gas in front where the patient lies on the back."""
    line = path([(58, -20, 58), (66, -44, 38), (62, -72, 8), (44, -84, -18), (14, -84, -28), (-16, -78, -14)], 5)
    radii = np.interp(np.arange(len(line)), [0, 8, 15, 25], [25, 29, 23, 14])
    canvas.tube(line, radii, 42, value("stomach"))
    canvas.tube(line, radii - 4, 18, None)
    level = -74.0
    box = canvas.box((0, -125, -70), (110, 20, 95))
    if box is not None:
        _, y, _ = canvas.mesh(box)
        gas = (canvas.labels[box] == value("stomach")) & (canvas.hu[box] == 18) & (y < level)
        canvas.paint(box, gas, GAS_HU, None)


def _pancreas(canvas: Canvas, plan: BodyPlan) -> None:
    line = path([(-36, -46, -40), (-30, -52, -22), (0, -66, -8), (34, -50, 0), (66, -22, 14)], 4)
    canvas.tube(line, np.linspace(14, 9, len(line)), 40 + 55 * plan.contrast, value("pancreas"))


def _kidneys(canvas: Canvas, plan: BodyPlan) -> None:
    """The left kidney holds the upper end, the right one the lower end."""
    top, bottom = plan.at("kidney_top"), plan.at("kidney_bottom")
    lag = 9.0
    for side, name, high, low in ((1, "kidney_left", top, bottom + lag), (-1, "kidney_right", top - lag, bottom)):
        half = (high - low) / 2
        center = np.array([side * 64, spine_y((high + low) / 2) + 8, (high + low) / 2])
        shear = (-side * 0.16, -0.12)
        canvas.ellipsoid(center, (38, 32, half + 8), -104, shear=shear)
        canvas.ellipsoid(center, (27, 24, half), 34 + 170 * plan.contrast, value(name), shear=shear, lumps=0.06)
        canvas.ellipsoid(center, (17, 14, 0.7 * half), 32 + 100 * plan.contrast, None, shear=shear)
        sinus = center + (-side * 12, -8, 0)
        canvas.ellipsoid(sinus, (14, 9, 0.4 * half), -80, shear=shear)
        canvas.ellipsoid(sinus + (-side * 6, -3, 0), (8, 7, 9), 6)


def _vena_cava(canvas: Canvas, plan: BodyPlan) -> None:
    line = [(-16, spine_y(-125) - 30, -125), (-20, spine_y(-60) - 32, -60), (-24, spine_y(20) - 36, 20), (-26, -30, 90)]
    canvas.tube(path(line, 6), 10.5, 42 + 100 * plan.contrast)


def _iliopsoas(canvas: Canvas, plan: BodyPlan) -> None:
    trochanter = plan.at("lesser_trochanter")
    course = profile(
        (trochanter, 103, 2, 9, 9),
        (-285, 98, -30, 17, 16),
        (-250, 90, -52, 22, 19),
        (-205, 74, -36, 25, 24),
        (-165, 58, -14, 24, 25),
        (-120, 44, -8, 20, 23),
        (-80, 36, -8, 15, 18),
        (-40, 31, -2, 8, 11),
        (-25, 29, 2, 4, 6),
    )
    for side, name in ((1, "iliopsoas_left"), (-1, "iliopsoas_right")):
        canvas.column((trochanter, -25), lambda z, side=side: course(z) * (side, 1, 1, 1), 56, value(name))


def _bowel(canvas: Canvas, plan: BodyPlan) -> None:
    """Colon as a frame with stool and gas, small bowel as loops at random."""
    colon = [
        (-96, -10, -165),
        (-98, -22, -110),
        (-94, -40, -62),
        (-60, -96, -66),
        (0, -104, -78),
        (62, -96, -50),
        (98, -40, -8),
        (102, -12, -70),
        (102, -10, -140),
    ]
    sigmoid = [(90, -30, -180), (50, -52, -215), (10, -40, -205), (-12, 0, -225), (0, 34, -250)]
    for line, radius in ((path(colon, 8), 21), (path(sigmoid, 8), 15)):
        wide = radius * (1 + 0.16 * np.sin(1.7 * np.arange(len(line))))
        canvas.tube(line, wide, BOWEL_HU)
        canvas.tube(line, wide - 3.5, STOOL_HU)
        for spot in plan.rng.choice(len(line), len(line) // 2, replace=False):
            canvas.ellipsoid(line[spot] + (0, -5, 0), (0.55 * radius, 0.4 * radius, 0.6 * radius), GAS_HU)
    for _ in range(34):
        start = np.array([plan.rng.uniform(-72, 72), plan.rng.uniform(-96, -46), plan.rng.uniform(-215, -60)])
        ends = start + plan.rng.normal(0, (26, 12, 14), (2, 3))
        line = np.clip(path([ends[0], start, ends[1]], 4), (-96, -102, -235), (96, -34, -45))
        canvas.tube(line, 12.5, BOWEL_HU + 25 * plan.contrast)
        canvas.tube(line, 9, plan.rng.uniform(8, 36))
        if plan.rng.uniform() < 0.22:
            canvas.ellipsoid(line[4] + (0, -3, 0), (7, 4, 6), GAS_HU)


def _pelvis(canvas: Canvas) -> None:
    canvas.ellipsoid((0, -42, -248), (39, 32, 26), 6, value("urinary_bladder"), lumps=0.05)
    canvas.ellipsoid((0, -14, -286), (22, 16, 15), 42)
    rectum = path([(0, 40, -235), (0, 34, -265), (0, 18, -300), (0, 26, -308)], 5)
    canvas.tube(rectum, 16, 40)
    canvas.tube(rectum[:12], 11, STOOL_HU)
    canvas.ellipsoid((0, 30, -262), (9, 7, 12), GAS_HU)
    for side in (-1, 1):
        canvas.tube(path([(side * 52, 10, -215), (side * 56, -4, -260), (side * 50, -14, -300)], 4), 9, 52)
