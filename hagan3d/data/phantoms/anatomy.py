"""Anatomy of the chest, organ by organ: body wall, lungs, abdomen, heart, great vessels, airway, lung vessels."""

from dataclasses import dataclass

import numpy as np

from hagan3d.data.phantoms.canvas import Box, Canvas, common, smooth_field, union
from hagan3d.data.phantoms.patient import Patient

AIR, BODY, RIGHT_LUNG, LEFT_LUNG, AIRWAY, BONE, HEART, LUNG_VESSEL, EMPHYSEMA = range(9)
LABEL_NAMES = ("air", "body", "right lung", "left lung", "airway", "bone", "heart", "lung vessel", "emphysema")

FAT, MUSCLE, BLOOD, LIVER, FLUID, DESTROYED = -100.0, 52.0, 42.0, 60.0, 12.0, -982.0
TEXTURE = 18.0  # HU
FAINT = 0.12  # voxel fraction below which vessels are not painted


@dataclass
class Scene:
    """A canvas with a patient and the surfaces that several organs share (signed distances in mm)."""

    canvas: Canvas
    patient: Patient
    rng: np.random.Generator
    x: np.ndarray
    """Millimetres to the patient's right [1, 1, W]."""
    y: np.ndarray
    """Millimetres to the front [1, H, 1]."""
    z: np.ndarray
    """Millimetres to the head [D, 1, 1]."""
    body: np.ndarray
    """Skin."""
    cage: np.ndarray
    """Inner face of the ribs."""
    around: np.ndarray
    """Angular position on the rib cage: 0 at the spine, 1 at the sternum [1, H, W]."""
    wobble: np.ndarray
    """Smooth random field that perturbs the surfaces."""


def make_scene(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> Scene:
    """Place a patient on an empty canvas."""
    z, y, x = canvas.z, canvas.y - patient.middle[0], canvas.x - patient.middle[1]
    wobble = smooth_field(rng, canvas.hu.shape, (6, 5, 6))
    width, depth = patient.cage
    up = np.clip((z + 20) / 145, 0, 1.3)
    narrow, shallow = 1 - 0.40 * up**2, 1 - 0.34 * up**2
    below = 1 - 0.04 * np.clip((-60 - z) / 100, 0, 1)
    cage = _rounded(x, y + 2, width * narrow * below, depth * shallow * below, 2.35) + 1.5 * wobble
    thick = patient.muscle + patient.fat
    shoulder = np.clip((z - 70) / 80, 0, 1.2)
    body_width = (width + 12 + thick) * (1 + 0.10 * shoulder)
    body_depth = (depth + 12 + 0.9 * thick) * (1 - 0.20 * shoulder**2)
    flat = np.where(y < 0, 0.93, 1.0).astype(np.float32)  # lying on the back
    body = _rounded(x, (y + 4) / flat**2, body_width, body_depth, 2.7) + 1.5 * wobble
    around = np.arctan2(np.abs(x), -(y + 2) * width / depth) / np.float32(np.pi)
    return Scene(canvas, patient, rng, x, y, z, body, cage, around, wobble)


def _blend(a: np.ndarray, b: np.ndarray, soft: float) -> np.ndarray:
    """Return the signed distance of a smooth union of two shapes, blended over `soft` mm."""
    near = np.maximum(soft - np.abs(a - b), 0) / soft
    return np.minimum(a, b) - near * near * (soft / 4)


def _rounded(x: np.ndarray, y: np.ndarray, wide: np.ndarray, deep: np.ndarray, power: float) -> np.ndarray:
    """Return the radial distance to the superellipse |x/wide|^p + |y/deep|^p = 1, negative inside."""
    across = np.abs(x) ** np.float32(power) / wide ** np.float32(power)
    along = np.abs(y) ** np.float32(power) / deep ** np.float32(power)
    ratio = (across + along) ** np.float32(1 / power)  # of the radius to that of the surface
    return np.sqrt(x * x + y * y) * (1 - 1 / np.maximum(ratio, 1e-3))


def paint_body(scene: Scene) -> None:
    """Paint skin, fat, muscle with intermuscular fat, breasts, and the scanner table."""
    canvas, patient = scene.canvas, scene.patient
    table = -scene.patient.cage[1] - 24 - patient.muscle - patient.fat
    bent = table + (scene.x / 42) ** 2 - scene.y  # distance above the top of the table
    canvas.paint(common(np.abs(bent + 10) - 9, np.abs(scene.x) - 190), -965)
    canvas.paint(common(np.abs(bent) - 2.5, np.abs(scene.x) - 190), -420)
    own_body = scene.body.copy()
    glands = _shape_breasts(scene) if patient.female else []
    canvas.paint(scene.body, FAT, BODY)
    for box, gland in glands:
        canvas.paint(common(gland, scene.body[box] + 8), 18.0, None, box)
    canvas.paint(common(scene.body, -scene.body - 2), 10.0)  # skin
    fat = patient.fat * (0.75 + 0.5 * np.sin(np.pi * scene.around) + 0.25 * scene.wobble)
    canvas.paint(own_body + np.maximum(fat, 3), MUSCLE)
    layer = common(np.abs(scene.cage - 15) - 1.6, 0.08 - scene.around, scene.around - 0.93)
    canvas.paint(layer, -55)
    canvas.paint(common(np.abs(scene.cage - 24) - 1.2, 0.22 - scene.around, scene.around - 0.85, scene.z - 95), -45)


def _shape_breasts(scene: Scene) -> list[tuple[Box, np.ndarray]]:
    """Add breasts to the skin surface; return box and signed distance of each mammary gland."""
    canvas, patient, gland = scene.canvas, scene.patient, []
    size = 34 + 0.9 * patient.fat
    front = patient.cage[1] + patient.muscle + patient.fat + patient.middle[0]
    for side in (-1, 1):
        centre = (-8.0, front - 0.15 * size, side * 0.60 * patient.cage[0] + patient.middle[1])
        box, distance = canvas.ellipsoid(centre, (1.5 * size, 0.78 * size, 1.45 * size))
        scene.body[box] = _blend(scene.body[box], distance, 16.0)
        box, distance = canvas.ellipsoid((-12.0, front + 0.12 * size, centre[2]), (0.7 * size, 0.3 * size, 0.7 * size))
        gland.append((box, distance + 5 * scene.wobble[box]))
    return gland


def diaphragm(scene: Scene) -> np.ndarray:
    """Return the height of the diaphragm [1, H, W], mm: two domes, the right one higher."""
    patient, (width, depth) = scene.patient, scene.patient.cage
    heights = []
    for side, lower in ((1, 0.0), (-1, 11.0)):
        across = (scene.x - side * 0.47 * width) / (0.60 * width)
        along = (scene.y - 12) / (0.95 * depth)
        fall = across**2 + np.where(along < 0, 1.35, 0.65) * along**2
        heights.append(patient.dome - lower - patient.dome_depth * np.minimum(fall, 2.4))
    return np.maximum(*heights)


def paint_lungs(scene: Scene, solid: np.ndarray) -> np.ndarray:
    """Paint mediastinal fat and lungs inside the rib cage.

    Args:
        scene: The patient.
        solid: Signed distance to the mediastinum and the spine (`solid_middle`).

    Returns:
        Signed distance to the lungs.
    """
    canvas, patient, (width, depth) = scene.canvas, scene.patient, scene.patient.cage
    x, y, z = scene.x, scene.y, scene.z
    canvas.paint(scene.cage, FAT)
    above = common(scene.cage, patient.apex - 16 - z + 8 * scene.wobble)
    canvas.paint(above, 22 + 40 * np.clip(scene.wobble, -1, 0.6))
    tip = ((np.abs(x) - 0.40 * width) / (0.34 * width)) ** 2 + ((y + 14) / (0.55 * depth)) ** 2
    top = (z - patient.apex) + 26 * np.minimum(tip, 9)  # above the apices
    floor = (diaphragm(scene) - z) * 0.8 + 1.2 * scene.wobble
    upper = 1 / (1 + np.exp(-(z - 62) / 9))
    front = 1 / (1 + np.exp(-(y - 30) / 9))
    lower = 1 / (1 + np.exp((z - patient.dome - 26) / 10))
    between = (8 + 20 * upper + 12 * lower) * (1 - 0.55 * front) - np.abs(x + 2 - 5 * front)
    lungs = common(scene.cage + 3.5, top * 0.45, floor, between, 4 - solid)
    back = np.clip((-y / depth + 1) / 2, 0, 1)
    texture = smooth_field(scene.rng, canvas.hu.shape, (22, 20, 22))
    healthy = patient.parenchyma + 55 * back**2 + TEXTURE * texture
    canvas.paint(lungs, healthy, None)
    inside = lungs < 0
    canvas.labels[inside & (x > 0)] = RIGHT_LUNG
    canvas.labels[inside & (x <= 0)] = LEFT_LUNG
    return lungs


def paint_emphysema(scene: Scene, lungs: np.ndarray) -> None:
    """Paint emphysema: random regions, mostly apical, below -950 HU, of about the fraction `patient.emphysema`."""
    canvas, patient = scene.canvas, scene.patient
    shape = canvas.hu.shape
    coarse, fine = smooth_field(scene.rng, shape, (11, 10, 11)), smooth_field(scene.rng, shape, (26, 24, 26))
    field = coarse + 0.7 * fine + scene.z * np.float32(0.006)
    free = lungs < -2
    if patient.emphysema > 0 and free.any():
        level = np.quantile(field[free], 1 - patient.emphysema)
        depth = np.clip((field - level) * 3.0 + 0.5, 0, 1)  # soft edge
        cover = depth * np.clip(0.5 - (lungs + 2) / canvas.edge, 0, 1)
        canvas.hu += cover * (DESTROYED - canvas.hu)
    canvas.labels[(lungs < 0) & (canvas.hu < -950)] = EMPHYSEMA


def liver_shape(scene: Scene) -> np.ndarray:
    """Return the signed distance to the liver."""
    x, y = scene.x, scene.y
    edge = -(x + 48) + 0.35 * (y - 10) + 6 * scene.wobble
    return common(_under_diaphragm(scene), scene.cage + 5, edge, -(y + 0.62 * scene.patient.cage[1]))


def _under_diaphragm(scene: Scene) -> np.ndarray:
    return (scene.z - diaphragm(scene) + 4) * 0.8 + 1.2 * scene.wobble


def paint_abdomen(scene: Scene) -> None:
    """Paint liver, spleen and stomach below the diaphragm."""
    canvas, patient, width = scene.canvas, scene.patient, scene.patient.cage[0]
    under, wall = _under_diaphragm(scene), scene.cage + 5
    canvas.paint(liver_shape(scene), LIVER)
    oy, ox = patient.middle
    box, distance = canvas.ellipsoid((patient.dome - 58, -36 + oy, -0.70 * width + ox), (46, 44, 30))
    canvas.paint(common(distance, wall[box], under[box]), 50.0, None, box)
    box, distance = canvas.ellipsoid((patient.dome - 54, 22 + oy, -0.50 * width + ox), (38, 44, 44))
    canvas.paint(common(distance, wall[box], under[box]), 38.0, None, box)
    if patient.gas:
        gas = common(distance + 4, 28 - scene.y[:, box[1]])
        canvas.paint(common(gas, wall[box] + 4, under[box] + 4), -960, AIR, box)


def spine_line(scene: Scene, z: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre line of the vertebral bodies (y, x) at heights z, mm, in patient coordinates."""
    patient = scene.patient
    y = -0.72 * patient.cage[1] - patient.spine_bow * (1 - (np.asarray(z) / 150) ** 2) + 6
    return y, patient.spine_side * np.sin(np.asarray(z) / 60)


def heart_shape(scene: Scene) -> np.ndarray:
    """Return the signed distance to the heart: an ellipsoid for the ventricles, and the two atria."""
    patient = scene.patient
    big, turn = patient.heart, patient.heart_turn
    x, y, z = scene.x + 31, scene.y - 22, scene.z - patient.dome - 20 * big
    along = np.array([-0.80 * np.cos(turn), 0.46, -0.36 + np.sin(turn)])
    long = along / np.linalg.norm(along)
    side = np.cross(long, (0, 0, 1))
    side /= np.linalg.norm(side)
    third = np.cross(long, side)
    parts = [
        (x * np.float32(v[0]) + y * np.float32(v[1]) + z * np.float32(v[2])) / np.float32(big * radius)
        for v, radius in ((long, 64), (side, 42), (third, 39))
    ]
    ventricles = (np.sqrt(sum(part**2 for part in parts)) - 1) * (39 * big)
    atrium = _ball(x - 44, y + 4, z - 10, (27 * big, 33 * big, 38 * big))
    left_atrium = _ball(x - 20, y + 34, z - 22, (36 * big, 20 * big, 24 * big))
    return union(ventricles, atrium, left_atrium) + 1.5 * scene.wobble


def _ball(x: np.ndarray, y: np.ndarray, z: np.ndarray, radii: tuple[float, float, float]) -> np.ndarray:
    """Return the signed distance (near the surface) of an ellipsoid around the origin."""
    return (np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2) - 1) * np.float32(min(radii))


def great_vessels(scene: Scene) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return points (z, y, x) and radii of the aorta, its branches, the pulmonary arteries and the venae cavae."""
    patient = scene.patient
    oy, ox = patient.middle
    r, arch = patient.aorta, patient.carina + 26
    down = np.linspace(arch - 22, -165, 10)
    spine_y, spine_x = spine_line(scene, down)
    root = patient.dome + 52 * patient.heart
    rows = [
        (
            [
                (root, 14, -4),
                (root + 26, 22, 10),
                (arch - 10, 20, 12),
                (arch, 8, 6),
                (arch + 3, -12, -8),
                (arch - 4, -30, -19),
                *zip(down, spine_y + 21 + 0.6 * r, spine_x - 15 - 0.3 * r, strict=True),
            ],
            [1.15 * r] * 3 + [r] * 3 + [0.85 * r] * 10,
        ),
        ([(arch, 6, 8), (arch + 30, 10, 14), (arch + 60, 12, 30), (arch + 100, 10, 34)], [6.5, 6, 5, 5]),
        ([(arch, -2, 0), (arch + 35, 0, -12), (arch + 100, 4, -24)], [5, 4.5, 4.5]),
        ([(arch, -16, -10), (arch + 30, -14, -26), (arch + 48, -2, -50), (arch + 52, 8, -90)], [5.5, 5, 5, 4.5]),
        ([(root - 12, 44, -22), (root + 12, 36, -28), (arch - 36, 12, -26)], [14, 13, 12]),
        ([(arch - 36, 12, -24), (arch - 38, -2, 6), (arch - 48, -8, 36), (arch - 64, -12, 50)], [11, 10, 9, 6]),
        ([(arch - 36, 10, -28), (arch - 33, -8, -42), (arch - 46, -20, -50), (arch - 70, -24, -54)], [11, 10, 8, 5]),
        ([(root - 10, 12, 34), (arch - 10, 14, 28), (arch + 22, 14, 26), (arch + 50, 24, 34)], [11, 10, 9, 8]),
        ([(arch + 22, 16, 24), (arch + 26, 34, -8), (arch + 44, 32, -34)], [8, 7, 7]),
    ]
    shift = np.array([0, oy, ox])
    return [(np.array(points, dtype=float) + shift, np.array(radii, dtype=float)) for points, radii in rows]


def paint_vessels_and_heart(scene: Scene, heart: np.ndarray) -> None:
    """Paint heart and great vessels; blood is slightly darker than muscle."""
    canvas = scene.canvas
    canvas.paint(heart, 50.0, HEART)
    canvas.paint(heart + 9, BLOOD - 4)
    for points, radii in great_vessels(scene):
        canvas.tube(points, radii, BLOOD, HEART)


def solid_middle(scene: Scene, heart: np.ndarray) -> np.ndarray:
    """Return the signed distance to the structures between the lungs: heart, great vessels and spine."""
    solid = heart.copy()
    for points, radii in great_vessels(scene)[:1] + great_vessels(scene)[4:8]:
        for a, b, radius, radius_b in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            box, distance = scene.canvas.capsule(a, b, float(radius) + 9, float(radius_b) + 9)
            solid[box] = np.minimum(solid[box], distance + 9)
    y, x = spine_line(scene, scene.z)
    column = np.sqrt(((scene.x - x) / 19) ** 2 + ((scene.y - y) / 17) ** 2) * 17 - 17
    behind = common(np.abs(scene.x - x) - 16, scene.y - y)
    return union(solid, column, behind)


def paint_airway(scene: Scene) -> None:
    """Paint trachea, main bronchi, lobar bronchi and oesophagus."""
    canvas, patient = scene.canvas, scene.patient
    carina, (oy, ox) = patient.carina, patient.middle
    spine_y, _ = spine_line(scene, 60.0)
    back = float(spine_y) + 36
    shift = np.array([0, oy, ox])
    start = np.array([carina, back - 2, 2.0])
    wide = 8.6 if patient.female else 10.0
    tubes: list[tuple[np.ndarray, list[float]]] = [
        (np.array([(170, back + 14, 0), (105, back + 6, 0), (carina + 8, back, 2), (*start,)]), [wide] * 4)
    ]
    right = np.array(
        [(*start,), (carina - 22, back - 4, 26), (carina - 38, back - 8, 40), (carina - 66, back - 16, 52)]
    )
    left = np.array(
        [(*start,), (carina - 26, back - 6, -30), (carina - 36, back - 10, -46), (carina - 64, back - 18, -58)]
    )
    tubes += [(right, [7.6, 7.0, 5.2, 3.6]), (left, [7.0, 6.2, 4.8, 3.4])]
    tubes += [(np.array([right[1], (carina - 6, back + 2, 50), (carina + 14, back + 4, 66)]), [5.0, 3.8, 2.6])]
    tubes += [(np.array([left[2], (carina - 30, back + 8, -66), (carina - 6, back + 14, -78)]), [4.6, 3.6, 2.6])]
    tubes += [(np.array([right[2], (carina - 58, back + 16, 62)]), [3.8, 2.6])]
    gullet = np.array([(170, back - 4, -4), (60, back - 15, -6), (0, back - 14, -8), (-120, back - 6, -16)])
    canvas.tube(gullet + shift, np.array([7.0, 7, 7, 8]), 34.0, None)
    for points, radii in tubes:
        canvas.tube(points + shift, np.array(radii) + 2.2, 20.0, BODY)
    for points, radii in tubes:
        canvas.tube(points + shift, np.array(radii), -1000.0, AIRWAY)


def paint_lung_vessels(scene: Scene, lungs: np.ndarray) -> None:
    """Paint arteries and veins as branching trees from the hila to the periphery of the lungs."""
    patient, (width, depth) = scene.patient, scene.patient.cage
    oy, ox = patient.middle
    root_z = patient.carina - 30
    for side in (1, -1):
        root = np.array([root_z, -8 + oy, side * 42 + ox])
        span = (patient.apex - patient.dome) / 2
        for lift, forward, out in (
            (0.95, 0.1, 0.35),
            (0.5, 0.7, 0.6),
            (0.1, -0.7, 0.7),
            (-0.7, 0.45, 0.6),
            (-0.85, -0.5, 0.5),
        ):
            aim = np.array([lift * span * 1.25, forward * depth * 0.9, side * out * width * 0.85])
            reach = float(np.linalg.norm(aim))
            _grow(scene, lungs, root, aim / reach, 0.34 * reach, scene.rng.uniform(4.2, 5.4), 6)


def _grow(
    scene: Scene, lungs: np.ndarray, start: np.ndarray, aim: np.ndarray, length: float, radius: float, more: int
) -> None:
    """Paint a branch from `start` along `aim` (z, y, x) that bifurcates recursively, `more` times."""
    rng = scene.rng
    bend = rng.normal(0, 0.16, 3)
    end = start + (aim + bend) * length
    thin = 0.82 * radius
    strength = scene.canvas.rod_strength(radius)
    if strength > FAINT:
        box, distance = scene.canvas.capsule(start, end, radius, thin)
        scene.canvas.paint(common(distance, lungs[box] + 2), BLOOD - 8, LUNG_VESSEL, box, strength)
    if not more:
        return
    side = np.cross(aim, rng.normal(size=3))
    side /= np.linalg.norm(side) + 1e-9
    for turn in (rng.uniform(0.15, 0.5), -rng.uniform(0.45, 0.95)):
        onward = aim + np.tan(turn) * side
        _grow(scene, lungs, end, onward / np.linalg.norm(onward), length * rng.uniform(0.62, 0.86), thin, more - 1)
