"""Write "CVAT for images 1.1": https://docs.cvat.ai/docs/manual/advanced/xml_format/."""

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from trmml.datasets.base import Edges
from trmml.exchange.source import Source
from trmml.exchange.writing import boxes_by_image, refuse_unfit
from trmml.images import shown_size


def write_cvat(folder: Path, source: Source) -> int:
    """Write annotations.xml; the number of its boxes.

    What people know has the source `manual`, what a run says `auto`. A pair with boxes has these
    instead of a tag.

    Raises:
        DataError: a name that XML cannot hold, or an image that cannot be read.
    """
    data = source.data
    refuse_unfit(data.category_names, "category", "XML")
    refuse_unfit(data.images, "image", "XML")
    boxes = boxes_by_image(data)
    with (folder / "annotations.xml").open("w", encoding="utf-8") as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        )
        file.write("<meta><task><labels>\n")
        file.writelines(f"<label><name>{escape(name)}</name></label>\n"
                        for name in data.category_names)  # fmt: skip
        file.write("</labels></task></meta>\n")
        for row, image in enumerate(data.images):
            width, height = shown_size(data.root / image)
            file.write(f'<image id="{row}" name={quoteattr(image)} width="{width}"'
                       f' height="{height}">\n')  # fmt: skip
            file.writelines(_shapes(source, row, boxes.get(row, {}), width, height))
            file.write("</image>\n")
        file.write("</annotations>\n")
    return sum(len(edges) for own in boxes.values() for edges in own.values())


def _shapes(
    source: Source, row: int, boxes: dict[int, list[Edges]], width: int, height: int
) -> Iterator[str]:
    """The boxes of an image, and a tag for each category that has none."""
    present = source.data.matrix.labels[row] | source.tags[row]
    for c in np.flatnonzero(present.numpy()).tolist():
        label = quoteattr(source.data.category_names[c])
        by = "auto" if source.tags[row, c] else "manual"
        for left, top, right, bottom in boxes.get(c, ()):
            yield (
                f'<box label={label} source="{by}" occluded="0" xtl="{left * width:.2f}"'
                f' ytl="{top * height:.2f}" xbr="{right * width:.2f}" ybr="{bottom * height:.2f}"'
                ' z_order="0"></box>\n'
            )
        if c not in boxes:
            yield f'<tag label={label} source="{by}"></tag>\n'
