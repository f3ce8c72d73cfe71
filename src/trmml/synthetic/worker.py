"""Draws a part of the pictures in a process of its own.

`write_scenes` starts it as `python -m trmml.synthetic.worker`. That, unlike a pool, works
from any script and notebook and copies nothing of a parent that may have threads running.
"""

import json
import sys
from pathlib import Path
from typing import Literal


def main(arguments: list[str]) -> None:
    """Draw every n-th picture and print what is in them as JSON.

    Args:
        arguments: folder, number of pictures, seed, style, first picture, step.
    """
    from trmml.synthetic.writing import draw_part

    folder, images, seed, name, start, step = arguments
    style: Literal["demo", "caption"] = "demo" if name == "demo" else "caption"
    numbers = range(int(start), int(images), int(step))
    json.dump(draw_part(Path(folder), numbers, int(seed), style), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
