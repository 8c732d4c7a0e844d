"""Streets with pedestrians, drawn by code: a stand-in for PennFudanPed that needs no download.

Each scene has sky, buildings, a pavement and a road, and 1 to 5 pedestrians among cars, trees and poles, drawn from
the back to the front, so that they hide one another. It is fixed by its part, its number and its size alone.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bayesft.data.scenes import Scene, Scenes, as_scene
from bayesft.seeds import derive_seed

COUNTS = {"train": 240, "validation": 40, "test": 60}
VISIBLE = 0.25  # the share of its pixels that an instance must show to count
SCALE = 2  # shapes are drawn so much larger, for smooth edges


def embedded(size: int = 128) -> Scenes:
    """Drawn scenes of `size` × `size` pixels: 240 train, 40 validation, 60 test."""
    parts = {name: [street(size, name, i) for i in range(count)] for name, count in COUNTS.items()}
    about = {"name": "drawn street scenes, in place of PennFudanPed", "source": "embedded", "of": sum(COUNTS.values())}
    return Scenes(parts, {**about, "images_used": dict(COUNTS)})


def street(size: int, *key: object) -> Scene:
    """The scene that `key` names."""
    rng = np.random.default_rng(derive_seed("street", size, *key))
    canvas = _Canvas(size, rng)
    horizon = rng.uniform(0.3, 0.5)
    _background(canvas, horizon)
    people = int(rng.integers(1, 6))
    figures = [("person", depth) for depth in rng.uniform(0, 1, people)]
    kinds = ("car", "pole", "tree", "box")
    figures += [(kinds[i], depth) for i, depth in zip(rng.integers(0, 4, 5), rng.uniform(0, 0.9, 5), strict=True)]
    number, whole = 0, {}
    for kind, depth in sorted(figures, key=lambda figure: figure[1]):  # the far ones first
        foot = horizon + 0.12 + (0.97 - horizon - 0.12) * depth
        height = (foot - horizon) * rng.uniform(1.05, 1.45) + 0.08
        x = rng.uniform(0.04, 0.96)
        if kind == "person":
            number += 1
            whole[number] = _person(canvas, number, x, foot, height)
        else:
            _THINGS[kind](canvas, x, foot, height)
    image, instances = canvas.finished()
    visible = [i for i, area in whole.items() if area and (instances == i).sum() >= VISIBLE * area]
    return as_scene(image, instances, visible)


Colour = tuple[int, ...]


class _Canvas:
    """An image and the numbers of the instances in it, drawn together. Coordinates are shares of the size."""

    def __init__(self, size: int, rng: np.random.Generator):
        self.size, self.rng = size, rng
        self.image = Image.new("RGB", (size * SCALE, size * SCALE))
        self.instances = Image.new("L", (size, size))
        self.pen, self.marker = ImageDraw.Draw(self.image), ImageDraw.Draw(self.instances)

    def colour(self, low: int = 20, high: int = 235) -> Colour:
        return tuple(int(c) for c in self.rng.integers(low, high, 3))

    def grey(self, low: int, high: int, tint: int = 12) -> Colour:
        level = self.rng.integers(low, high)
        return tuple(int(c) for c in np.clip(level + self.rng.integers(-tint, tint + 1, 3), 0, 255))

    def shape(
        self, kind: str, points: list[tuple[float, float]], colour: Colour, number: int = 0, alone: Any = None
    ) -> None:
        """Draw a "polygon", an "ellipse" or a "rectangle"; `alone` gets its pixels of instance numbers too."""
        large, small = ([(x * s, y * s) for x, y in points] for s in (self.size * SCALE, self.size))
        getattr(self.pen, kind)(large, fill=colour)
        getattr(self.marker, kind)(small, fill=number)
        if alone is not None:
            getattr(alone, kind)(small, fill=number)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.shape("rectangle", [(left, top), (right, bottom)], colour)

    def finished(self) -> tuple[np.ndarray, np.ndarray]:
        """The image (S, S, 3), smoothed, unevenly lit and noisy, and the instance numbers (S, S)."""
        small = self.image.resize((self.size, self.size), Image.Resampling.BOX)
        pixels = np.asarray(small.filter(ImageFilter.GaussianBlur(0.4)), dtype=np.float32)
        level, (left, right) = self.rng.uniform(0.75, 1.15), self.rng.uniform(0.85, 1.15, 2)
        light = level * np.linspace(left, right, self.size)
        noise = self.rng.normal(0, self.rng.uniform(3, 9), pixels.shape)
        lit = pixels * light[None, :, None] + noise
        return lit.clip(0, 255).astype(np.uint8), np.asarray(self.instances)


def _background(canvas: _Canvas, horizon: float) -> None:
    rng = canvas.rng
    sky = np.array([rng.integers(120, 220), rng.integers(150, 230), rng.integers(190, 250)])
    for i in range(6):
        canvas.box(0, i * horizon / 6, 1, (i + 1) * horizon / 6, tuple(int(c) for c in np.minimum(255, sky + 6 * i)))
    left = -0.1
    while left < 1:
        right, top = left + rng.uniform(0.15, 0.4), rng.uniform(-0.1, horizon * 0.8)
        canvas.box(left, top, right, horizon + 0.06, canvas.colour(50, 210))
        glass, gap = canvas.colour(20, 240), rng.uniform(0.05, 0.09)
        for x in np.arange(left + gap / 2, right - gap / 2, gap):
            for y in np.arange(top + gap / 2, horizon, gap * 1.3):
                canvas.box(x, y, x + gap * 0.5, y + gap * 0.7, glass)
        left = right
    canvas.box(0, horizon + 0.05, 1, 1, canvas.grey(120, 190))  # pavement
    kerb = rng.uniform(horizon + 0.25, 0.95)
    canvas.box(0, kerb, 1, 1, canvas.grey(50, 110))
    for x in np.arange(rng.uniform(0, 0.2), 1, 0.3):
        canvas.box(x, (1 + kerb) / 2, x + 0.12, (1 + kerb) / 2 + 0.015, canvas.grey(200, 250))


def _person(canvas: _Canvas, number: int, x: float, foot: float, height: float) -> int:
    """Draw a pedestrian, and return how many pixels it would show if nothing hid it."""
    rng = canvas.rng
    alone = Image.new("L", canvas.instances.size)
    pen = ImageDraw.Draw(alone)
    top, half, lean = foot - height, height * rng.uniform(0.1, 0.15), height * rng.uniform(-0.03, 0.03)
    skin = tuple(int(c * rng.uniform(0.45, 1.0)) for c in (240, 200, 170))
    coat, trousers, hair = canvas.colour(), canvas.colour(10, 150), canvas.grey(10, 120, 30)
    neck, hip, head = top + 0.17 * height, top + 0.52 * height, 0.075 * height

    def draw(kind: str, points: list[tuple[float, float]], colour: Colour) -> None:
        canvas.shape(kind, points, colour, number, pen)

    stride = height * rng.uniform(0.02, 0.13)
    for side, reach in ((-1, stride), (1, stride * rng.uniform(0.3, 1))):
        inner, outer, at = x, x + side * half * 0.85, x + side * reach
        wide = half * 0.4
        draw("polygon", [(inner, hip), (outer, hip), (at + wide, foot), (at - wide, foot)], trousers)
        draw("rectangle", [(at - wide, foot - 0.03 * height), (at + wide * 1.4, foot)], canvas.grey(10, 70))
    for side in (-1, 1):
        hand = x + side * (half + height * rng.uniform(0.0, 0.1))
        shoulder, thick = x + lean + side * half * 0.8, half * 0.35
        points = [(shoulder - thick, neck), (shoulder + thick, neck), (hand + thick, hip), (hand - thick, hip)]
        draw("polygon", points, tuple(int(c * 0.85) for c in coat))
        draw("ellipse", [(hand - thick, hip - thick), (hand + thick, hip + thick)], skin)
    chest = [(x + lean - half, neck), (x + lean + half, neck), (x + half * 0.9, hip), (x - half * 0.9, hip)]
    draw("polygon", chest, coat)
    centre = x + lean
    draw("ellipse", [(centre - head, top), (centre + head, top + 2.2 * head)], hair)
    draw("ellipse", [(centre - head * 0.8, top + head * 0.6), (centre + head * 0.8, top + 2.3 * head)], skin)
    return int(np.count_nonzero(np.asarray(alone)))


def _car(canvas: _Canvas, x: float, foot: float, height: float) -> None:
    long, tall, colour = height * canvas.rng.uniform(0.9, 1.3), height * 0.42, canvas.colour()
    left, right, roof = x - long / 2, x + long / 2, foot - tall
    cabin = [(left + long * 0.2, roof + tall * 0.45), (left + long * 0.3, roof)]
    cabin += [(right - long * 0.3, roof), (right - long * 0.15, roof + tall * 0.45)]
    canvas.shape("polygon", cabin, canvas.grey(40, 120))
    canvas.box(left, roof + tall * 0.42, right, foot - tall * 0.12, colour)
    for wheel in (left + long * 0.2, right - long * 0.2):
        radius = tall * 0.22
        canvas.shape("ellipse", [(wheel - radius, foot - 2 * radius), (wheel + radius, foot)], (25, 25, 28))


def _pole(canvas: _Canvas, x: float, foot: float, height: float) -> None:
    thick, colour = height * canvas.rng.uniform(0.02, 0.05), canvas.grey(40, 160)
    canvas.box(x - thick, foot - height * canvas.rng.uniform(1.0, 1.8), x + thick, foot, colour)
    if canvas.rng.random() < 0.5:  # a sign
        top, half = foot - height * 1.1, height * canvas.rng.uniform(0.08, 0.16)
        canvas.shape("ellipse", [(x - half, top - half), (x + half, top + half)], canvas.colour())


def _tree(canvas: _Canvas, x: float, foot: float, height: float) -> None:
    thick, crown = height * 0.05, height * canvas.rng.uniform(0.25, 0.4)
    canvas.box(x - thick, foot - height, x + thick, foot, (90, 65, 45))
    for _ in range(4):
        a, b = canvas.rng.uniform(-0.5, 0.5, 2) * crown
        green = (int(canvas.rng.integers(30, 90)), int(canvas.rng.integers(80, 150)), int(canvas.rng.integers(20, 70)))
        centre = (x + a, foot - height * 1.2 + b)
        corners = [
            (centre[0] - crown * 0.7, centre[1] - crown * 0.7),
            (centre[0] + crown * 0.7, centre[1] + crown * 0.7),
        ]
        canvas.shape("ellipse", corners, green)


def _letterbox(canvas: _Canvas, x: float, foot: float, height: float) -> None:
    half, tall, colour = height * canvas.rng.uniform(0.08, 0.2), height * canvas.rng.uniform(0.3, 0.6), canvas.colour()
    canvas.box(x - half, foot - tall, x + half, foot, colour)
    canvas.box(x - half * 0.7, foot - tall * 0.85, x + half * 0.7, foot - tall * 0.7, canvas.grey(10, 240))


_THINGS = {"car": _car, "pole": _pole, "tree": _tree, "box": _letterbox}
