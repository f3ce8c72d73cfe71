"""Draw a layout as an image, with its labels, boxes and caption."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFilter

from trmml.settings.choices import StyleName
from trmml.synthetic.captions import write_caption
from trmml.synthetic.categories import CATEGORIES
from trmml.synthetic.colours import RGB, darker, lighter, pick, shift
from trmml.synthetic.hatching import hatch
from trmml.synthetic.layout import Item, Layout, draw_layout
from trmml.synthetic.pen import Pen
from trmml.synthetic.styles import SceneStyle, find_style

SMALLEST_VISIBLE_SHARE: Final = 0.3
_OVERSAMPLING: Final = 2
_OUTLINE_FROM_PIXELS: Final = 20  # below this an outline would be all there is


@dataclass(frozen=True)
class Box:
    """The visible part of one object, in pixels; `right` and `bottom` are exclusive."""

    category: int  # index in `CATEGORY_NAMES`
    left: int  # first column
    top: int  # first row
    right: int  # column after the last
    bottom: int  # row after the last
    visible_share: float  # share of the object that is neither covered nor outside, in [0.3, 1]
    colour: str  # name of the object's own colour


@dataclass(frozen=True)
class Scene:
    """An image with its labels, boxes and caption."""

    image: Image.Image  # mode RGB
    category_indices: tuple[int, ...]  # of all visible categories, sorted
    boxes: tuple[Box, ...]  # one per visible object
    caption: str  # one sentence
    setting: str  # its phrase in the caption, "" for a plain background
    quality: int  # the JPEG quality to store the image with


def draw_scene(rng: np.random.Generator, style: StyleName = "demo") -> Scene:
    """Return a random image in a style.

    Example:
        >>> scene = draw_scene(np.random.default_rng(3), "caption")
        >>> len(scene.boxes) >= len(scene.category_indices)
        True
    """
    hand = find_style(style)
    layout = draw_layout(rng, hand)
    return render(layout, hand, rng)


def render(layout: Layout, style: SceneStyle, rng: np.random.Generator) -> Scene:
    """Return the image of a layout."""
    turn = float(rng.uniform(-style.hue_turn, style.hue_turn))
    tint = (turn, float(rng.uniform(*style.saturation)))
    canvas = _background(layout, rng)
    owner = np.full((layout.height, layout.width), -1, dtype=np.int16)
    painted = np.zeros(len(layout.items), dtype=np.int64)
    for number, item in enumerate(layout.items):
        tile = draw_item(item, round(item.side * min(layout.width, layout.height)), style, rng)
        painted[number] = _paste(canvas, owner, tile, item, number)
    boxes = _boxes(layout, owner, painted)
    image = _light(canvas, style, tint, rng)
    indices = tuple(sorted({box.category for box in boxes}))
    phrase = layout.setting.phrase if layout.setting else ""
    caption = write_caption(rng, [(box.category, box.colour) for box in boxes], phrase)
    quality = int(rng.integers(style.quality[0], style.quality[1] + 1))
    return Scene(image, indices, boxes, caption, phrase, quality)


def draw_item(item: Item, pixels: int, style: SceneStyle, rng: np.random.Generator) -> Image.Image:
    """Return one object alone on a transparent tile whose object part is `pixels` wide."""
    side = max(8, pixels) * _OVERSAMPLING
    room = math.ceil(side * 1.5 / _OVERSAMPLING) * _OVERSAMPLING  # room to turn in
    main = pick(rng, item.colour)
    tile = Image.new("RGBA", (room, room), (*darker(main, 0.5), 0))
    outlined = rng.random() < style.outlined_share and pixels >= _OUTLINE_FROM_PIXELS
    pen = Pen(
        ImageDraw.Draw(tile),
        _transform(item, side, room, style, rng),
        rng,
        main=main,
        ink=darker(pick(rng, "black"), float(rng.uniform(0.0, 0.6))),
        outline=float(rng.uniform(*style.outline)) if outlined else 0.0,
        wash=float(rng.uniform(*style.wash)),
        wobble=style.wobble,
        warp=style.warp,
    )
    if item.category is None:
        _scribble(pen)
    else:
        CATEGORIES[item.category].draw(pen)
    tile = tile.reduce(_OVERSAMPLING)
    return hatch(tile, float(rng.uniform(*style.hatch)), rng) if style.hatch[1] else tile


def _transform(
    item: Item, side: int, room: int, style: SceneStyle, rng: np.random.Generator
) -> Float[np.ndarray, "2 3"]:
    angle = math.radians(item.degrees)
    sine, cosine = math.sin(angle), math.cos(angle)
    wide = side * (-1 if item.flipped else 1)
    tall = side * (1 + float(rng.uniform(-style.stretch, style.stretch)))
    matrix = np.array([[cosine * wide, -sine * tall], [sine * wide, cosine * tall]])
    offset = room / 2 - matrix @ np.array([0.5, 0.5])
    return np.column_stack([matrix, offset])


def _scribble(pen: Pen) -> None:
    """A shape that means nothing."""
    count = int(pen.rng.integers(3, 8))
    angles = np.sort(pen.rng.uniform(0, 2 * math.pi, count))
    radii = pen.rng.uniform(0.15, 0.5, count)
    points = [
        (0.5 + r * math.cos(a), 0.5 + r * math.sin(a))
        for a, r in zip(angles.tolist(), radii.tolist(), strict=True)
    ]
    kind = int(pen.rng.integers(3))
    if kind == 0:
        pen.polygon(points, pen.main)
    elif kind == 1:
        pen.blob(points, pen.light)
    else:
        pen.curve(points, 0.08, pen.dark)


def _background(layout: Layout, rng: np.random.Generator) -> Image.Image:
    """Return the background, painted at twice the size and reduced."""
    width, height = layout.width * _OVERSAMPLING, layout.height * _OVERSAMPLING
    colour = pick(rng, ("white", "grey", "blue", "yellow", "pink", "green")[rng.integers(6)])
    canvas = Image.new("RGB", (width, height), lighter(colour, float(rng.uniform(0.3, 0.9))))
    transform = np.array([[width, 0.0, 0.0], [0.0, height, 0.0]])
    pen = Pen(ImageDraw.Draw(canvas), transform, rng, main=colour, wobble=0.004, warp=0.008)
    if layout.setting:
        layout.setting.paint(pen)
    elif rng.random() < 0.5:
        other = lighter(pick(rng, "turquoise" if rng.random() < 0.5 else "brown"), 0.6)
        pen.rect(-0.1, float(rng.uniform(0.5, 0.8)), 1.1, 1.1, other)
    return canvas.reduce(_OVERSAMPLING)


def _paste(
    canvas: Image.Image, owner: Int[np.ndarray, "h w"], tile: Image.Image, item: Item, number: int
) -> int:
    """Paste a tile, mark its pixels as those of item `number`, and return how many they are."""
    left = round(item.x * canvas.width - tile.width / 2)
    top = round(item.y * canvas.height - tile.height / 2)
    canvas.paste(tile, (left, top), tile)
    solid: Bool[np.ndarray, "h w"] = np.asarray(tile.getchannel("A")) > 127
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(canvas.width, left + tile.width), min(canvas.height, top + tile.height)
    if x1 > x0 and y1 > y0:
        owner[y0:y1, x0:x1][solid[y0 - top : y1 - top, x0 - left : x1 - left]] = number
    return int(solid.sum())


def _boxes(
    layout: Layout, owner: Int[np.ndarray, "h w"], painted: Int[np.ndarray, " n"]
) -> tuple[Box, ...]:
    boxes = []
    visible = np.bincount(owner.ravel() + 1, minlength=len(layout.items) + 1)[1:]
    for number, item in enumerate(layout.items):
        share = float(visible[number]) / max(1, int(painted[number]))
        if item.category is None or share < SMALLEST_VISIBLE_SHARE:
            continue
        mine = owner == number
        rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
        edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        boxes.append(Box(item.category, *edges, round(share, 3), item.colour))
    return tuple(boxes)


def _light(
    image: Image.Image, style: SceneStyle, tint: tuple[float, float], rng: np.random.Generator
) -> Image.Image:
    """Return the image with tint, light, blur and grain."""
    radius = float(rng.uniform(0.0, style.blur))
    if radius > 0.25:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    pixels = np.asarray(image, dtype=np.float32) @ _tint_matrix(*tint)
    y, x = np.ogrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    slope = rng.uniform(-style.shade, style.shade, 2) / 2
    light = 1.0 + slope[0] * x + slope[1] * y + float(rng.uniform(-style.shade, style.shade)) / 2
    cast = 1.0 + rng.uniform(-style.cast, style.cast, 3)
    pixels *= light.astype(np.float32)[..., None] * cast.astype(np.float32)
    grain = rng.standard_normal((image.height, image.width, 1), dtype=np.float32)
    pixels += float(rng.uniform(*style.noise)) * grain
    done: UInt8[np.ndarray, "h w 3"] = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.fromarray(done)


def _tint_matrix(turn: float, saturation: float) -> Float[np.ndarray, "3 3"]:
    """Return the matrix that turns hues about the grey axis and scales the distance from it."""
    corners: tuple[RGB, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    turned = np.array([shift(corner, turn, 1.0, 1.0) for corner in corners]) / 255
    grey = np.full((3, 3), 1.0) * np.array([[0.3], [0.6], [0.1]])
    matrix = grey + saturation * (turned / turned.sum(axis=0, keepdims=True) - grey)
    return matrix.astype(np.float32)  # type: ignore[no-any-return]
