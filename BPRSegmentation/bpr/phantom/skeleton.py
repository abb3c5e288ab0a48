"""Bones of the trunk: vertebrae, ribs, sternum, shoulder girdle."""

from __future__ import annotations

import numpy as np

from bpr.phantom.canvas import Canvas, path
from bpr.phantom.plan import CAGE, SPINE_Y, BodyPlan, profile
from bpr.phantom.thorax import spine_y, value

CORTEX_HU, SPONGE_HU, DISC_HU, CARTILAGE_HU, CORD_HU = 620, 210, 85, 110, 28
# Half width and half depth of the vertebral bodies by height.
BODY = profile(
    (-159, 26, 17), (-80, 24, 17), (0, 21, 16), (100, 17, 15), (200, 15, 12), (254, 14, 9), (300, 12, 8), (350, 10, 8)
)


def vertebra_edges(plan: BodyPlan) -> np.ndarray:
    """Heights of the discs from L5/S1 up to C2/C3: vertebra ``i`` (L5 is 0) lies between edges ``i`` and ``i + 1``."""
    lumbar = np.linspace(plan.at("l5_s1"), 0.0, 6)
    growth = np.linspace(1.18, 0.82, 12)
    thoracic = np.cumsum(growth) / growth.sum() * plan.at("c7_t1")
    top = plan.at("c1_dens_tip") - 38
    return np.concatenate([lumbar, thoracic, np.linspace(plan.at("c7_t1"), top, 6)[1:]])


def paint_skeleton(canvas: Canvas, plan: BodyPlan) -> None:
    """Spine, ribs, sternum and shoulders; call after the soft organs."""
    edges = vertebra_edges(plan)
    _shoulders(canvas, plan)
    _ribs(canvas, plan, edges)
    _sternum(canvas, plan)
    _spine(canvas, plan, edges)


def _spine(canvas: Canvas, plan: BodyPlan, edges: np.ndarray) -> None:
    label = value("spine")
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        _vertebra(canvas, low, high, label)
    top, tip = edges[-1], plan.at("c1_dens_tip")
    y = spine_y(top)
    canvas.column((top, top + 20), lambda z: _body(z, 1.0), CORTEX_HU, label)
    canvas.column((top, tip), lambda z: np.stack([0 * z, 0 * z + y, 0 * z + 5.5, 0 * z + 5.5], -1), CORTEX_HU, label)
    ring = [(22 * np.cos(a), y + 9 + 20 * np.sin(a), tip - 10) for a in np.linspace(0, 2 * np.pi, 17)]
    canvas.tube(np.array(ring), 5.5, CORTEX_HU, label)
    canvas.ellipsoid((0, y + 26, top + 8), (7, 14, 8), CORTEX_HU, label)
    canvas.column((edges[0] - 40, tip + 8), _canal, CORD_HU)
    canvas.column((-20, tip + 8), lambda z: _canal(z) * (1, 1, 0.55, 0.55), CORD_HU + 14)


def _vertebra(canvas: Canvas, low: float, high: float, label: int) -> None:
    height = high - low
    disc = 0.11 * height if low > 0 else 0.15 * height
    y = spine_y((low + high) / 2)
    depth = float(BODY((low + high) / 2)[0, 1])
    back = y + depth + 12
    canvas.column((low, high), lambda z: _body(z, 1.0), DISC_HU, label, power=2.3)
    body = (low + disc, high - disc)
    canvas.column(body, lambda z: _body(z, 1.0), CORTEX_HU, label, power=2.3)
    canvas.column((body[0] + 2, body[1] - 2), lambda z: _body(z, 0.9), SPONGE_HU, label, power=2.3)
    slope = 0.8 if low > 0 else 0.15
    reach = 30 if low < 250 else 18
    arch = (low + 0.3 * height, high - 0.12 * height)
    canvas.column(arch, lambda z: _canal(z) * (1, 1, 1.65, 1.5), 420, label)
    spinous = [(0, back + 8, low + 0.55 * height), (0, back + reach, low + (0.4 - slope) * height)]
    canvas.tube(np.array(spinous), (4.0, 5.0), 430, label)
    wing = 38 if low < -10 else 28 if low < 250 else 24
    for side in (-1, 1):
        start = (side * 13, back - 4, low + 0.62 * height)
        canvas.tube(
            np.array([start, (side * wing, back + (2 if low < -10 else 14), low + 0.68 * height)]), (6, 4), 400, label
        )
        canvas.ellipsoid((side * 17, back + 3, low + 0.05 * height), (6, 7, 0.3 * height), CORTEX_HU, label)


def _body(z: np.ndarray, factor: float) -> np.ndarray:
    rx, ry = BODY(z).T
    return np.stack([0 * z, SPINE_Y(z)[:, 0], rx * factor, ry * factor], -1)


def _canal(z: np.ndarray) -> np.ndarray:
    return np.stack([0 * z, SPINE_Y(z)[:, 0] + BODY(z)[:, 1] + 9, 0 * z + 10, 0 * z + 8], -1)


def _ribs(canvas: Canvas, plan: BodyPlan, edges: np.ndarray) -> None:
    """Twelve pairs: back from the vertebra, around the cage and downwards; the front ends in cartilage."""
    heads = edges[6:18][::-1]  # upper edges of T1 down to T12 (edges[5] is T12/L1, edges[17] C7/T1)
    for number, head in enumerate(heads, start=1):
        drop = float(np.interp(number, [1, 4, 8, 12], [28, 62, 88, 40]))
        reach = float(np.interp(number, [1, 7, 10, 11, 12], [0.98, 0.97, 0.8, 0.55, 0.38]))
        t = np.linspace(0.06, reach, 26)
        z = head - 8 - drop * np.clip((t - 0.1) / 0.75, 0, 1) ** 1.1
        width, front, back = CAGE(np.clip(z + 0.25 * drop, 0, 250)).T
        angle = np.pi * (0.5 - t)
        x = (width + 3) * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.87
        y = (front + back) / 2 + ((back - front) / 2 + 3) * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.87
        neck = np.array([[21, spine_y(head) + 14, head - 4]])
        bony = t < 0.72 if number < 11 else t < 2
        for side in (-1, 1):
            line = np.concatenate([neck, np.stack([x, y, z], -1)]) * (side, 1, 1)
            hard = np.concatenate([[True], bony])
            canvas.tube(line[hard], 5.2, CORTEX_HU)
            canvas.tube(line[hard], 3.0, 260)
            canvas.tube(line[~hard], 4.5, CARTILAGE_HU)


def _sternum(canvas: Canvas, plan: BodyPlan) -> None:
    notch = plan.at("sternal_notch")
    shape = profile(
        (notch - 175, 8, 4),
        (notch - 150, 15, 5),
        (notch - 60, 15, 5.5),
        (notch - 45, 17, 6),
        (notch - 8, 27, 7),
        (notch, 24, 6),
    )

    def axis(z):
        rx, ry = shape(z).T
        lean = np.interp(z, [notch - 175, notch], [-119, -66])
        return np.stack([0 * z, lean, rx, ry], -1)

    canvas.column((notch - 175, notch), axis, 480)
    canvas.column((notch - 150, notch - 3), axis, 190, grow=-2.2)


def _shoulders(canvas: Canvas, plan: BodyPlan) -> None:
    notch, raised = plan.at("sternal_notch"), 14 if plan.arms == "up" else 0
    for side in (-1, 1):

        def mirrored(points, side=side):
            return np.array(points, float) * (side, 1, 1)

        canvas.tube(
            path(
                mirrored(
                    [(20, -62, notch + 4), (60, -56, notch + 14), (105, -22, notch + 20), (140, 4, notch + 18 + raised)]
                )
            ),
            6.5,
            700,
        )
        blade = mirrored([(138, 16, 208 + raised), (92, 74, 224), (82, 86, 185), (88, 90, 140), (98, 88, 105)])
        for start, end in zip(np.linspace(blade[0], blade[0], 14), path(blade[1:], 4), strict=False):
            canvas.tube(np.array([start, end]), (4.5, 2.6), 430)
        canvas.tube(mirrored([(90, 84, 212), (150, 24, 232 + raised)]), 6, 560)
        for radius, hu in ((24, 780), (20, 240)):
            canvas.ellipsoid(mirrored([(156, 16, 208 + raised)])[0], (radius,) * 3, hu)
