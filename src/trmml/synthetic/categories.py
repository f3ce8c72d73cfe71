"""The 48 categories: what each is called, how it is drawn, in which colours and sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from trmml.synthetic import animals, belongings, food, furniture, tools, vehicles, weather
from trmml.synthetic.pen import Pen


@dataclass(frozen=True)
class Category:
    """One category that an image can show."""

    name: str  # as used in labels and captions
    draw: Callable[[Pen], None]  # draws it on a unit canvas
    colours: tuple[str, ...]  # names from `colours.NAMED` that its own colour is drawn from
    zone: Literal["sky", "ground", "any"]  # where it is put; "any" is free
    size: float = 1.0  # factor on the side of an object
    turns: bool = False  # True if it can lie at any angle


_BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "turquoise")
_FUR = ("brown", "black", "grey", "orange", "white")
_HANDLES = ("red", "blue", "green", "orange")
_PETALS = ("red", "pink", "purple", "yellow", "blue")
_PAINT = ("red", "blue", "green", "yellow", "orange", "turquoise")

CATEGORIES: Final[tuple[Category, ...]] = (
    Category("dog", animals.dog, _FUR, "ground"),
    Category("cat", animals.cat, _FUR, "ground", 0.9),
    Category("bird", animals.bird, ("red", "blue", "yellow", "brown", "turquoise"), "any", 0.7),
    Category("fish", animals.fish, ("orange", "blue", "yellow", "red", "purple"), "ground", 0.75),
    Category("horse", animals.horse, ("brown", "black", "white", "grey"), "ground", 1.2),
    Category("elephant", animals.elephant, ("grey",), "ground", 1.3),
    Category("butterfly", animals.butterfly, _BRIGHT, "any", 0.6),
    Category("snail", animals.snail, ("brown", "orange", "pink", "purple"), "ground", 0.6),
    Category("turtle", animals.turtle, ("green", "brown"), "ground", 0.75),
    Category("rabbit", animals.rabbit, ("white", "brown", "grey"), "ground", 0.75),
    Category("car", vehicles.car, (*_PAINT, "black", "white"), "ground", 1.15),
    Category("bus", vehicles.bus, ("red", "yellow", "blue", "green"), "ground", 1.35),
    Category("bicycle", vehicles.bicycle, _PAINT, "ground"),
    Category("boat", vehicles.boat, ("red", "blue", "brown", "white"), "ground", 1.1),
    Category("aeroplane", vehicles.aeroplane, ("red", "blue", "grey", "orange"), "sky", 1.05),
    Category("train", vehicles.train, ("red", "green", "blue", "black"), "ground", 1.3),
    Category("hot-air balloon", vehicles.hot_air_balloon, _BRIGHT, "sky"),
    Category("tractor", vehicles.tractor, ("red", "green", "blue"), "ground", 1.15),
    Category("apple", food.apple, ("red", "green", "yellow"), "ground", 0.6),
    Category("banana", food.banana, ("yellow",), "ground", 0.65, turns=True),
    Category("pizza", food.pizza, ("yellow",), "ground", 0.8, turns=True),
    Category("ice cream", food.ice_cream, ("pink", "brown", "white", "turquoise"), "any", 0.7),
    Category("carrot", food.carrot, ("orange",), "ground", 0.65, turns=True),
    Category("cake", food.cake, ("pink", "brown", "yellow"), "ground", 0.85),
    Category("hammer", tools.hammer, ("brown", "red", "blue"), "any", 0.8, turns=True),
    Category("scissors", tools.scissors, _HANDLES, "any", 0.7, turns=True),
    Category("saw", tools.saw, ("brown", "red", "orange"), "any", 0.9, turns=True),
    Category("spanner", tools.spanner, ("grey", "blue"), "any", 0.75, turns=True),
    Category("brush", tools.brush, _BRIGHT, "any", 0.75, turns=True),
    Category("sun", weather.sun, ("yellow", "orange"), "sky", 0.8),
    Category("cloud", weather.cloud, ("white", "grey"), "sky", 0.9),
    Category("rain", weather.rain, ("blue",), "sky", 0.95),
    Category("rainbow", weather.rainbow, ("red",), "sky", 1.2),
    Category("lightning", weather.lightning, ("yellow",), "sky", 0.95),
    Category("snowman", weather.snowman, ("red", "green", "blue"), "ground"),
    Category("chair", furniture.chair, ("brown", "red", "blue", "green"), "ground", 1.05),
    Category("table", furniture.table, ("brown", "grey", "white"), "ground", 1.25),
    Category("lamp", furniture.lamp, ("yellow", "red", "green", "orange"), "any", 0.95),
    Category("bed", furniture.bed, ("blue", "red", "green", "purple"), "ground", 1.35),
    Category("clock", furniture.clock, ("red", "black", "brown", "blue"), "sky", 0.65),
    Category("house", belongings.house, ("red", "brown", "blue", "orange"), "ground", 1.3),
    Category("tree", belongings.tree, ("green",), "ground", 1.3),
    Category("flower", belongings.flower, _PETALS, "ground", 0.75),
    Category("umbrella", belongings.umbrella, _BRIGHT, "any", 0.95),
    Category("book", belongings.book, ("red", "blue", "green", "brown"), "any", 0.7),
    Category("ball", belongings.ball, _PAINT, "any", 0.6, turns=True),
    Category("cup", belongings.cup, ("white", "red", "blue", "green"), "any", 0.65),
    Category("kite", belongings.kite, _BRIGHT, "sky", 0.85),
)  # fmt: skip

CATEGORY_NAMES: Final[tuple[str, ...]] = tuple(category.name for category in CATEGORIES)
