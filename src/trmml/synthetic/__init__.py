"""The demo's world: pictures with 48 categories, drawn from a seed, with the truth beside them."""

from trmml.synthetic.categories import CATEGORY_NAMES
from trmml.synthetic.compose import Box, Scene, draw_scene
from trmml.synthetic.writing import write_scenes

__all__ = ["CATEGORY_NAMES", "Box", "Scene", "draw_scene", "write_scenes"]
