"""The skeleton of a phantom: spine, ribs, sternum, clavicles, scapulae and humeral heads."""

import numpy as np

from hagan3d.data.phantoms.anatomy import BONE, MUSCLE, Scene, spine_line
from hagan3d.data.phantoms.canvas import WHOLE, Box, common, union

CARTILAGE = 95.0
SHELL = 2.2  # mm of cortical bone around trabecular bone


def paint_skeleton(scene: Scene) -> None:
    """Paint every bone."""
    _paint_spine(scene)
    _paint_ribs(scene)
    _paint_sternum(scene)
    _paint_shoulders(scene)


def _bone(scene: Scene, distance: np.ndarray, trabecular: float, cortical: float, box: Box = WHOLE) -> None:
    """Paint cortical bone outside and trabecular bone inside."""
    density = scene.patient.bone
    scene.canvas.paint(distance, cortical * density, BONE, box)
    scene.canvas.paint(distance + SHELL, trabecular * density, None, box)


def _to_nearest(height: np.ndarray, pitch: float) -> np.ndarray:
    """Return the distance to the nearest multiple of the pitch, mm."""
    return np.abs(height - pitch * np.round(height / pitch))


def _paint_spine(scene: Scene) -> None:
    """Paint vertebral bodies, discs, arches around the canal, spinous and transverse processes."""
    canvas, patient = scene.canvas, scene.patient
    oy, ox = patient.middle
    box = canvas.box_round((-1e3, -1e3, ox - 45), (1e3, -0.4 * patient.cage[1] + oy, ox + 45))
    skin = scene.body[box] + 7
    z, y, x = canvas.inside(box)
    line_y, line_x = spine_line(scene, z)
    y, x = y - oy - line_y.astype(np.float32), x - ox - line_x.astype(np.float32)
    height = z - patient.phase * patient.pitch
    lower = np.clip((20 - z) / 150, 0, 1)  # lower vertebrae are larger
    wide, deep = 15.5 + 3 * lower, 13 + 2.5 * lower
    round_body = (np.sqrt((x / wide) ** 2 + (y / deep) ** 2) - 1) * deep
    disc = _to_nearest(height + patient.pitch / 2, patient.pitch)
    canvas.paint(round_body + 1, 85.0, None, box)
    _bone(scene, common(round_body, 3.2 - disc), 175, 420, box)
    back = y + deep + 9  # from the middle of the canal
    level = _to_nearest(height, patient.pitch)
    ring = np.abs(np.sqrt((x / 1.15) ** 2 + back**2) - 12) - 3.4
    _bone(scene, common(ring, back - 7, level - 8, skin), 260, 520, box)
    tip = _to_nearest(height - 0.35 * np.minimum(back, 0), patient.pitch)  # spinous processes point down
    spinous = common(np.abs(x) - 3.2, back + 11, -back - 32, tip - 5.5)
    transverse = common(np.abs(back - 0) - 4.5, np.abs(x) - 33, 12 - np.abs(x), level - 5.5)
    _bone(scene, common(union(spinous, transverse), skin), 230, 480, box)
    canvas.paint((np.sqrt(x**2 + back**2) - 8), 24.0, None, box)


def _paint_ribs(scene: Scene) -> None:
    """Paint ribs, which descend from the spine to the front, and ascending costal cartilage."""
    canvas, patient = scene.canvas, scene.patient
    t = scene.around
    fall = patient.rib_drop * (np.clip(t / 0.78, 0, 1) ** 1.25 - 0.55 * np.clip((t - 0.78) / 0.22, 0, 1))
    height = scene.z + fall - patient.phase * patient.pitch
    number = np.round((patient.apex + 8 - height) / patient.pitch)
    off = _to_nearest(height, patient.pitch) * 0.86
    rib = (np.sqrt(((scene.cage - 4.2) / 4.4) ** 2 + (off / 5.4) ** 2) - 1) * 4.4
    reach = np.where(number > 8, 0.86 - 0.09 * (number - 8), 0.99)  # the lowest ribs end early
    here = common((t - reach) * 200, (0.05 - t) * 200, -number - 0.5, number - 11.5)
    _bone(scene, common(rib, here, (t - 0.80) * 200), 230, 620)
    canvas.paint(common(rib, here, (0.80 - t) * 200), CARTILAGE)


def _paint_sternum(scene: Scene) -> None:
    """Paint manubrium and body of the sternum, a plate inclined towards the neck."""
    patient = scene.patient
    up = np.clip((scene.z + 20) / 145, 0, 1.3)
    face = scene.y + 2 - patient.cage[1] * (1 - 0.34 * up**2) - 4
    wide = 14 + 9 * np.clip((scene.z - 55) / 30, 0, 1)
    plate = common(np.abs(face) - 5.5, np.abs(scene.x) - wide, scene.z - patient.apex + 34, -44 - scene.z)
    _bone(scene, plate, 130, 380)


def _paint_shoulders(scene: Scene) -> None:
    """Paint clavicles, scapulae and humeral heads."""
    canvas, patient, (width, depth) = scene.canvas, scene.patient, scene.patient.cage
    oy, ox = patient.middle
    blade = common(
        np.abs(scene.cage - 16 - 10 * np.clip((scene.z - 40) / 90, 0, 1)) - 3.4,
        (np.abs(scene.around - 0.31) - 0.035 - 0.0011 * np.clip(scene.z - 5, 0, 110)) * 300,
        np.abs(scene.z - 62) - 62,
        scene.body + 6,
    )
    _bone(scene, blade, 260, 560)
    top = patient.apex - 2
    for side in (-1, 1):
        points = np.array(
            [
                (top - 24, 0.62 * depth, 20),
                (top - 8, 0.66 * depth, 52),
                (top + 10, 0.30 * depth, 92),
                (top + 16, 0.02 * depth, 132),
            ]
        )
        points = points * (1, 1, side) + (0, oy, ox)
        for a, b in zip(points[:-1], points[1:], strict=True):
            box, distance = canvas.capsule(a, b, 6.2, 6.2)
            _bone(scene, distance, 260, 600, box)
        box, distance = canvas.ellipsoid((top + 34, -0.10 * depth + oy, side * (width + 14) + ox), (24, 22, 22))
        canvas.paint(common(distance - 10, scene.body[box]), MUSCLE, None, box)
        _bone(scene, common(distance, scene.body[box] + 5), 190, 480, box)
