"""Skin, fat, muscle, limbs and the empty cavities into which the organs are painted."""

from __future__ import annotations

import numpy as np

from bpr.phantom.canvas import Canvas, path
from bpr.phantom.plan import CAGE, FAT, SPINE_Y, TRUNK, BodyPlan, profile

FAT_HU, MUSCLE_HU, SKIN_HU = -105, 52, 5
THIGH = profile((-420, 82, -16, 74, 74), (-350, 88, -10, 84, 86), (-322, 90, -6, 84, 92), (-280, 92, -4, 78, 92))
HEAD = profile(
    (318, -66, 40, 46),
    (330, -52, 50, 62),
    (350, -36, 62, 84),
    (373, -24, 70, 96),
    (404, -22, 76, 100),
    (440, -20, 79, 101),
    (470, -18, 78, 98),
    (495, -18, 66, 84),
    (510, -18, 46, 60),
    (520, -18, 22, 30),
    (524, -18, 6, 8),
)


def trunk(z: np.ndarray, inset: np.ndarray | float = 0.0) -> np.ndarray:
    """Center x, y and radii (n, 4) of the trunk's skin at heights ``z``, ``inset`` mm inside it."""
    width, front, back = TRUNK(z).T
    return np.stack([0 * z, (front + back) / 2, width - inset, (back - front) / 2 - inset], -1)


def cavity(z: np.ndarray) -> np.ndarray:
    """Center x, y and radii (n, 4) of the abdominal and pelvic cavity."""
    width, front, back = CAVITY(z).T
    return np.stack([0 * z, (front + back) / 2, width, (back - front) / 2], -1)


CAVITY = profile(
    (-312, 30, -58, 44),
    (-290, 48, -70, 52),
    (-240, 58, -84, 56),
    (-190, 88, -98, 34),
    (-150, 118, -106, 22),
    (-110, 116, -112, 18),
    (-50, 120, -115, 22),
    (0, 122, -117, 32),
    (50, 124, -117, 46),
    (110, 122, -112, 60),
)


def paint_envelope(canvas: Canvas, plan: BodyPlan) -> None:
    """Trunk, neck, head, thighs and arms: skin, fat, then muscle."""
    for hu, depth in ((SKIN_HU, 0.0), (FAT_HU, 2.0), (MUSCLE_HU, None)):

        def inset(z, depth=depth):
            return 2.0 + plan.fat * FAT(z)[:, 0] if depth is None else depth + 0 * z

        canvas.column((-328, 372), lambda z: trunk(z, inset(z)), hu, power=2.4)
        for side in (-1, 1):
            canvas.column((-700, -280), lambda z, side=side: _thigh(z, side, inset(z)), hu)
        canvas.column((318, 524), lambda z: _head(z, 0.5 * inset(z)), hu, power=2.2)
    _arms(canvas, plan)
    _muscle_planes(canvas, plan)
    canvas.column((-312, 110), cavity, FAT_HU - 3, power=2.3)


def _thigh(z: np.ndarray, side: int, inset: np.ndarray) -> np.ndarray:
    cx, cy, rx, ry = THIGH(z).T
    return np.stack([side * cx, cy, rx - inset, ry - inset], -1)


def _head(z: np.ndarray, inset: np.ndarray) -> np.ndarray:
    cy, rx, ry = HEAD(z).T
    return np.stack([0 * z, cy, rx - inset, ry - inset], -1)


def _arms(canvas: Canvas, plan: BodyPlan) -> None:
    if plan.arms == "none":
        return
    for side in (-1, 1):
        if plan.arms == "up":
            line = [(150, 22, 200), (160, 10, 240), (150, -8, 300), (138, -22, 400), (130, -30, 480), (110, -45, 620)]
        else:
            line = [
                (158, 22, 205),
                (172, 18, 222),
                (190, 16, 180),
                (204, 18, 60),
                (212, 14, -60),
                (214, -10, -180),
                (214, -30, -310),
            ]
        points = path(np.array(line, float) * (side, 1, 1), 4)
        thick = np.interp(
            np.arange(len(points)),
            np.linspace(0, len(points) - 1, len(line)),
            [46, 48, 45, 41, 38, 36, 30][: len(line)],
        )
        for hu, shrink in ((SKIN_HU, 0.0), (FAT_HU, 2.0), (MUSCLE_HU, 2.0 + 6.0 * plan.fat)):
            canvas.tube(points, thick - shrink, hu)
        canvas.tube(points[4:], 11, 950)
        canvas.tube(points[4:], 5, 20)


def _muscle_planes(canvas: Canvas, plan: BodyPlan) -> None:
    """Fat between muscles, at the gluteus, the shoulder, the back, so that muscle is not one block."""
    for side in (-1, 1):
        for start, end, radius in (
            ((70, 72, -180), (120, 30, -300), 4.0),
            ((128, -30, -210), (140, 20, -290), 4.5),
            ((60, -66, -330), (100, -50, -400), 5.0),
            ((95, 40, 205), (125, -20, 190), 8.0),
            ((110, -40, 190), (70, -60, 225), 5.0),
            ((80, 70, 120), (110, 40, 60), 2.5),
            ((40, -10, 262), (62, 10, 250), 6.0),
            ((30, -20, 300), (44, 8, 310), 3.5),
        ):
            canvas.tube(np.array([start, end], float) * (side, 1, 1), radius, FAT_HU + 10)
        back = np.array([(side * 62, float(SPINE_Y(z)[0, 0]) + 40, z) for z in range(-150, 200, 25)])
        canvas.tube(back, 3.0, FAT_HU + 15)


def inside_cage(x: np.ndarray, y: np.ndarray, z: np.ndarray, inset: float = 0.0) -> np.ndarray:
    """True inside the ribs, ``inset`` mm from them; arguments broadcast, z of shape (nz, 1, 1)."""
    width, front, back = (column.reshape(-1, 1, 1) for column in CAGE(z.ravel()).T.astype(np.float32))
    rx, ry = np.maximum(width - inset, 1), np.maximum((back - front) / 2 - inset, 1)
    return np.abs(x / rx) ** 2.3 + np.abs((y - (front + back) / 2) / ry) ** 2.3 <= 1
