"""Draw a part of the images in a process of its own.

`write_scenes` starts it as `python -m trmml.synthetic.worker`. Unlike a pool, this works from any
script or notebook and copies nothing of a parent process that may run threads.
"""

import json
import sys
from pathlib import Path

from trmml.settings.choices import StyleName


def main(arguments: list[str]) -> None:
    """Draw every n-th image and print their labels, captions and boxes as JSON.

    Args:
        arguments: folder, number of images, seed, style, first image, step.
    """
    from trmml.synthetic.writing import draw_part

    folder, images, seed, name, start, step = arguments
    style: StyleName = "demo" if name == "demo" else "caption"
    numbers = range(int(start), int(images), int(step))
    json.dump(draw_part(Path(folder), numbers, int(seed), style), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
