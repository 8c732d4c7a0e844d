"""Drawn traffic signs of GTSRB's 43 classes: a plate, a pictogram of lines and areas, and a photograph of both.

Pictograms are in coordinates of -1 … 1, x to the right and y downwards, of which a plate fills about all.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
SIZE = 32
_CANVAS = 256  # a sign is drawn on it
_TEMPLATE = 96  # and reduced to this
RED, BLUE, WHITE, BLACK, GREY, YELLOW = (
    (190, 25, 35), (25, 75, 165), (240, 240, 238), (25, 25, 28), (130, 130, 132), (245, 190, 30),
)  # fmt: skip

# A pictogram is a list of (points, width, colour): a line; an area when the width is 0; a disc when the point is one.
_DIGITS = {
    "0": [[(0, -1), (0.6, -0.6), (0.6, 0.6), (0, 1), (-0.6, 0.6), (-0.6, -0.6), (0, -1)]],
    "1": [[(-0.4, -0.5), (0.15, -1), (0.15, 1)]],
    "2": [[(-0.6, -0.55), (0, -1), (0.55, -0.6), (0.4, 0), (-0.6, 0.95), (0.65, 0.95)]],
    "3": [[(-0.6, -0.95), (0.55, -0.95), (0, -0.2), (0.6, 0.35), (0.1, 1), (-0.6, 0.75)]],
    "5": [[(0.55, -0.95), (-0.5, -0.95), (-0.5, -0.1), (0.2, -0.15), (0.6, 0.4), (0.2, 1), (-0.6, 0.85)]],
    "6": [[(0.45, -1), (-0.4, -0.2), (-0.6, 0.5), (0, 1), (0.6, 0.5), (0.1, 0), (-0.5, 0.2)]],
    "7": [[(-0.6, -0.95), (0.6, -0.95), (-0.1, 1)]],
    "8": [[(0, -1), (0.5, -0.55), (-0.6, 0.5), (0, 1), (0.6, 0.5), (-0.5, -0.55), (0, -1)]],
}


def _number(text: str, colour: Colour = BLACK) -> list[Any]:
    scale = 0.34 if len(text) == 2 else 0.24
    marks = []
    for i, digit in enumerate(text):
        centre = (i - (len(text) - 1) / 2) * scale * 1.85
        marks += [([(centre + scale * x, 0.4 * y) for x, y in line], 0.15, colour) for line in _DIGITS[digit]]
    return marks


def _arrow(*points: tuple[float, float], colour: Colour = WHITE, width: float = 0.24) -> list[Any]:
    """A line that ends in a head."""
    (x0, y0), (x1, y1) = points[-2:]
    length = np.hypot(x1 - x0, y1 - y0)
    dx, dy = 0.36 * (x1 - x0) / length, 0.36 * (y1 - y0) / length
    head = [(x1 + 0.6 * dx, y1 + 0.6 * dy), (x1 - 0.5 * dx - dy, y1 - 0.5 * dy + dx)]
    return [(list(points), width, colour), (head + [(x1 - 0.5 * dx + dy, y1 - 0.5 * dy - dx)], 0, colour)]


def _mirrored(marks: list[Any]) -> list[Any]:
    return [([(-x, y) for x, y in points], width, colour) for points, width, colour in marks]


def _box(x0: float, y0: float, x1: float, y1: float, colour: Colour = BLACK) -> tuple[Any, ...]:
    return ([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], 0, colour)


def _car(x: float, colour: Colour) -> list[Any]:
    wheels = [([(x + side * 0.15, 0.22)], 0.16, colour) for side in (-1, 1)]
    return [_box(x - 0.25, -0.05, x + 0.25, 0.2, colour), _box(x - 0.15, -0.25, x + 0.15, 0, colour), *wheels]


def _truck(x: float, colour: Colour) -> list[Any]:
    wheels = [([(x + side, 0.3)], 0.18, colour) for side in (-0.2, 0.2)]
    return [_box(x - 0.35, -0.35, x + 0.1, 0.25, colour), _box(x + 0.13, -0.1, x + 0.33, 0.25, colour), *wheels]


def _person(x: float, y: float, size: float) -> list[Any]:
    lines = ([(0, -0.5), (0, 0.2), (-0.3, 0.9)], [(0, 0.2), (0.35, 0.9)], [(-0.4, 0.05), (0, -0.4), (0.4, 0)])
    return [([(x, y - 0.8 * size)], 0.4 * size, BLACK)] + [
        ([(x + size * a, y + size * b) for a, b in line], 0.24 * size, BLACK) for line in lines
    ]


def _stroke(colour: Colour = BLACK, width: float = 0.1, shift: float = 0.0) -> tuple[Any, ...]:
    return ([(-0.75 + shift, 0.75 + shift), (0.75 + shift, -0.75 + shift)], width, colour)


_END = [_stroke(shift=shift) for shift in (-0.16, 0.0, 0.16)]
_CURVE = _arrow((0.3, 0.55), (0.3, 0.1), (-0.1, -0.15), (-0.25, -0.3), colour=BLACK, width=0.2)
_RIGHT = _arrow((-0.3, 0.65), (-0.3, -0.05), (0.4, -0.05))
_FORKED = _arrow((-0.2, 0.7), (-0.2, -0.5)) + _arrow((-0.2, 0.35), (0.1, 0.1), (0.45, 0.1))
_KEEP = _arrow((-0.4, -0.4), (0.35, 0.35))
_WHEELS = [
    ([(x + 0.2 * np.cos(t), 0.3 + 0.2 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 13)], 0.08, BLACK)
    for x in (-0.36, 0.36)
]
# Class → plate and pictogram, in GTSRB's order.
SIGNS: list[tuple[str, list[Any]]] = [
    *(("ring", _number(text)) for text in ("20", "30", "50", "60", "70", "80")),
    ("end", _number("80", GREY) + _END),
    *(("ring", _number(text)) for text in ("100", "120")),
    ("ring", _car(-0.3, RED) + _car(0.3, BLACK)),  # no passing
    ("ring", _truck(-0.32, RED) + _car(0.36, BLACK)),  # no passing for trucks
    ("triangle", [([(0, -0.35), (0, 0.6)], 0.2, BLACK), ([(-0.35, 0.2), (0.35, 0.2)], 0.14, BLACK)]),  # right of way
    ("diamond", []),  # priority road
    ("yield", []),
    ("octagon", [  # stop
        ([(-0.45, -0.3), (-0.7, -0.3), (-0.7, 0), (-0.45, 0), (-0.45, 0.3), (-0.7, 0.3)], 0.11, WHITE),
        ([(-0.32, -0.3), (0.02, -0.3)], 0.11, WHITE), ([(-0.15, -0.3), (-0.15, 0.35)], 0.11, WHITE),
        ([(0.12, -0.3), (0.35, -0.3), (0.35, 0.3), (0.12, 0.3), (0.12, -0.3)], 0.11, WHITE),
        ([(0.5, 0.35), (0.5, -0.3), (0.72, -0.3), (0.72, 0), (0.5, 0)], 0.11, WHITE),
    ]),
    ("ring", []),  # no vehicles
    ("ring", _truck(0, BLACK)),
    ("red disc", [_box(-0.65, -0.17, 0.65, 0.17, WHITE)]),  # no entry
    ("triangle", [([(0, -0.35), (0, 0.25)], 0.2, BLACK), ([(0, 0.5)], 0.22, BLACK)]),  # caution
    ("triangle", _CURVE),
    ("triangle", _mirrored(_CURVE)),
    ("triangle", [([(0.2, 0.6), (-0.25, 0.3), (0.25, 0.05), (-0.1, -0.3)], 0.15, BLACK)]),  # double curve
    ("triangle", [([(-0.25, 0.5)], 0.5, BLACK), ([(0.25, 0.5)], 0.5, BLACK), _box(-0.6, 0.45, 0.6, 0.6)]),  # bumps
    ("triangle", [*(([(x, y - 0.25) for x, y in points], w, c) for points, w, c in _car(0, BLACK)),  # slippery
                  ([(-0.2, 0.1), (-0.35, 0.3), (-0.15, 0.45), (-0.3, 0.6)], 0.1, BLACK),
                  ([(0.2, 0.1), (0.05, 0.3), (0.25, 0.45), (0.1, 0.6)], 0.1, BLACK)]),
    ("triangle", [([(-0.2, 0.6), (-0.2, -0.3)], 0.12, BLACK),  # narrows
                  ([(0.3, 0.6), (0.3, 0.35), (0.05, 0), (0.05, -0.3)], 0.12, BLACK)]),
    ("triangle", [*_person(-0.15, 0.1, 0.45), ([(0.4, 0.5)], 0.36, BLACK), ([(-0.1, 0), (0.3, 0.4)], 0.1, BLACK)]),
    ("triangle", [([(0, -0.25)], 0.25, RED), ([(0, 0.12)], 0.25, YELLOW), ([(0, 0.48)], 0.25, (20, 150, 70))]),
    ("triangle", [*_person(0, 0.0, 0.48), _box(-0.6, 0.48, -0.2, 0.6), _box(0.2, 0.48, 0.6, 0.6)]),  # pedestrians
    ("triangle", _person(-0.3, 0.25, 0.36) + _person(0.3, 0.2, 0.42)),  # children
    ("triangle", [*_WHEELS, ([(-0.36, 0.3), (-0.1, -0.1), (0.2, -0.1), (0.36, 0.3)], 0.08, BLACK),  # bicycles
                  ([(-0.1, -0.1), (0.05, 0.3), (0.2, -0.25)], 0.08, BLACK)]),
    ("triangle", [([(np.sin(t) * 0.4, 0.2 - np.cos(t) * 0.4), (-np.sin(t) * 0.4, 0.2 + np.cos(t) * 0.4)], 0.1, BLACK)
                  for t in (0, np.pi / 3, 2 * np.pi / 3)]),  # ice
    ("triangle", [([(-0.45, 0.3), (0.15, 0.0)], 0.24, BLACK), ([(0.15, 0), (0.3, -0.35)], 0.14, BLACK),  # animals
                  ([(-0.42, 0.3), (-0.55, 0.6)], 0.1, BLACK), ([(0.1, 0.05), (0.4, 0.45)], 0.1, BLACK)]),
    ("end", list(_END)),
    ("blue", _RIGHT),
    ("blue", _mirrored(_RIGHT)),
    ("blue", _arrow((0, 0.7), (0, -0.5))),
    ("blue", _FORKED),
    ("blue", _mirrored(_FORKED)),
    ("blue", _KEEP),
    ("blue", _mirrored(_KEEP)),
    ("blue", [mark for turn in range(3) for mark in _arrow(*(  # roundabout
        (0.5 * np.cos(t), 0.5 * np.sin(t)) for t in np.linspace(0, 1.35, 5) + turn * 2 * np.pi / 3), width=0.16)]),
    ("end", _car(-0.3, GREY) + _car(0.3, GREY) + [_stroke(width=0.2)]),
    ("end", _truck(-0.32, GREY) + _car(0.36, GREY) + [_stroke(width=0.2)]),
]  # fmt: skip


def _polygon(corners: int, radius: float, turn: float, y: float = 0.0) -> list[Any]:
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    return [(radius * np.sin(t), y - radius * np.cos(t)) for t in angles]


# The areas of each plate, from the back to the front; the first one is its outline.
_PLATES: dict[str, list[Any]] = {
    "ring": [(_polygon(60, 1, 0), 0, RED), (_polygon(60, 0.76, 0), 0, WHITE)],
    "end": [(_polygon(60, 1, 0), 0, WHITE)],
    "blue": [(_polygon(60, 1, 0), 0, WHITE), (_polygon(60, 0.94, 0), 0, BLUE)],
    "red disc": [(_polygon(60, 1, 0), 0, RED)],
    "triangle": [(_polygon(3, 1.25, 0, 0.3), 0, RED), (_polygon(3, 0.88, 0, 0.3), 0, WHITE)],
    "yield": [(_polygon(3, 1.25, np.pi, -0.3), 0, RED), (_polygon(3, 0.75, np.pi, -0.3), 0, WHITE)],
    "octagon": [(_polygon(8, 1, np.pi / 8), 0, WHITE), (_polygon(8, 0.94, np.pi / 8), 0, RED)],
    "diamond": [(_polygon(4, 1, 0), 0, WHITE), (_polygon(4, 0.72, 0), 0, YELLOW)],
}


def template(label: int) -> Image.Image:
    """The sign of a class as seen from the front: RGBA, 96 × 96, transparent around the plate."""
    plate, marks = SIGNS[label]
    outline = _PLATES[plate][0]
    colours = Image.new("RGB", (_CANVAS, _CANVAS), outline[2])
    mask = Image.new("L", (_CANVAS, _CANVAS), 0)
    scale = 0.94 * _CANVAS / 2

    def place(points: list[Any]) -> list[Any]:
        return [(round(_CANVAS / 2 + scale * x), round(_CANVAS / 2 + scale * y)) for x, y in points]

    ImageDraw.Draw(mask).polygon(place(outline[0]), fill=255)
    pen = ImageDraw.Draw(colours)
    # The free area of a triangle is narrow: what is drawn in it is smaller.
    fit = 0.8 if plate == "triangle" else 1.0
    inner = [([(fit * x, fit * y + (0.25 if fit < 1 else 0)) for x, y in p], fit * w, c) for p, w, c in marks]
    for points, width, colour in [*_PLATES[plate], *inner]:
        at, pixels = place(points), max(1, round(width * scale))
        if len(at) == 1:
            (x, y), r = at[0], pixels / 2
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        elif width:
            pen.line(at, fill=colour, width=pixels, joint="curve")
        else:
            pen.polygon(at, fill=colour)
    colours.putalpha(mask)
    return colours.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.BOX)


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (43 · count, 3, 32, 32), uint8, and labels, `count` of each class, in random order; fixed by `seed`.

    A sign is turned, tilted, shifted and scaled at random, put before a random ground, lit, blurred and made noisy.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(SIGNS)), count))
    templates = [template(label) for label in range(len(SIGNS))]
    n, large = len(labels), 2 * SIZE
    signs = np.stack([np.asarray(_pose(templates[label], rng)) for label in labels]).astype(np.float32) / 255
    alpha = signs[..., 3:]
    # Light on the sign and on its ground differ, and so do their colours' casts.
    ground = _ground(n, large, rng) * rng.uniform(0.5, 1.1, (n, 1, 1, 1)).astype(np.float32)
    light = rng.uniform(0.2, 1.2, (n, 1, 1, 1)) * rng.uniform(0.9, 1.1, (n, 1, 1, 3))
    haze = rng.uniform(0, 0.4, (n, 1, 1, 1)).astype(np.float32)
    slope = 1 + rng.uniform(-0.25, 0.25, (n, 1, 1, 1)) * np.linspace(-1, 1, large)[None, :, None, None]
    face = (signs[..., :3] * (1 - haze) + 0.6 * haze) * (light * slope).astype(np.float32)
    image = (ground + (face - ground) * alpha).reshape(n, SIZE, 2, SIZE, 2, 3).mean((2, 4))
    blur = rng.uniform(0, 1, (n, 1, 1, 1)).astype(np.float32)
    for axis in (1, 2):
        padded = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
        before, after = padded.take(range(SIZE), axis), padded.take(range(2, SIZE + 2), axis)
        image = image + blur / 3 * (before + after - 2 * image)
    image += rng.uniform(0.02, 0.08, (n, 1, 1, 1)).astype(np.float32) * rng.standard_normal(image.shape, np.float32)
    return (image * 255).round().clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2), labels


def _pose(sign: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The sign seen from somewhere: RGBA, 64 × 64."""
    angle, stretch, size = rng.uniform(-0.25, 0.25), rng.uniform(0.88, 1.14), rng.uniform(0.66, 1.06)
    x, y = rng.uniform(-0.16, 0.16, 2)
    tilt = rng.uniform(-0.12, 0.12, 2)
    # From the output's coordinates, -1 … 1, to the template's: the inverse of the pose, with perspective.
    a, b = np.cos(angle) / (size * stretch), np.sin(angle) / (size * stretch)
    d, e = -np.sin(angle) / size * stretch, np.cos(angle) / size * stretch
    pose = np.array([[a, b, -a * x - b * y], [d, e, -d * x - e * y], [*tilt, 1]])
    into = np.array([[_TEMPLATE / 2, 0, _TEMPLATE / 2], [0, _TEMPLATE / 2, _TEMPLATE / 2], [0, 0, 1]])
    out_of = np.array([[1 / SIZE, 0, -1], [0, 1 / SIZE, -1], [0, 0, 1]])
    matrix = into @ pose @ out_of
    data = (matrix / matrix[2, 2]).ravel()[:8].tolist()
    return sign.transform((2 * SIZE, 2 * SIZE), Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)


def _ground(n: int, large: int, rng: np.random.Generator) -> np.ndarray:
    """Grounds (n, large, large, 3): blocks of random tones, coarse and fine."""
    tones = np.zeros((n, large, large, 3), np.float32)
    for cells, weight in ((2, 0.5), (8, 0.3), (16, 0.2)):
        blocks = rng.uniform(0, 1, (n, cells, cells, 1)) * 0.7 + rng.uniform(0, 0.3, (n, cells, cells, 3))
        tones += weight * blocks.astype(np.float32).repeat(large // cells, 1).repeat(large // cells, 2)
    return tones
