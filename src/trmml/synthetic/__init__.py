"""Draw images of 48 categories from a seed, with complete labels, boxes and captions."""

from trmml.synthetic.categories import CATEGORY_NAMES
from trmml.synthetic.compose import Box, Scene, draw_scene
from trmml.synthetic.writing import write_scenes

__all__ = ["CATEGORY_NAMES", "Box", "Scene", "draw_scene", "write_scenes"]
