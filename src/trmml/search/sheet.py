"""A contact sheet: what a query found, as one HTML file that needs no other."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from trmml.errors import DataError
from trmml.images import read_image
from trmml.search.index import Hit
from trmml.storage.atomic import begins_with, refuse_other, write_text

# Longest side of an image on the sheet, in pixels: sharp at its width of 240 on most screens.
PIXELS = 480
# How a sheet begins; a file that does may be written over.
_HEAD = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="generator" content="trmml contact sheet">'
)
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.4 system-ui,sans-serif;margin:24px;background:Canvas;color:CanvasText}
h1{font-size:1.15rem;margin:0 0 4px}p{margin:0 0 20px;opacity:.75}
ol{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:18px;
list-style:none;margin:0;padding:0}
li{border:1px solid color-mix(in srgb,CanvasText 18%,transparent);border-radius:10px;
overflow:hidden}
.image{display:flex;height:200px;background:color-mix(in srgb,CanvasText 8%,transparent)}
img{width:100%;height:100%;object-fit:contain}
.gone{margin:auto;opacity:.7}
.text{padding:10px 12px;overflow-wrap:anywhere}
.name{font-weight:600}.score{float:right;font-variant-numeric:tabular-nums;opacity:.75}
.tags{font-size:.87em;opacity:.85}
"""


def write_sheet(path: Path, title: str, hits: Sequence[Hit]) -> None:
    """Write the images that were found, each with its name, score and categories.

    Args:
        path: of the HTML file.
        title: the query in words.
        hits: best first; an image that is gone or broken gets a sentence in its place.

    Raises:
        DataError: another file is there, or it cannot be written.
    """
    refuse_other(path, lambda file: begins_with(file, _HEAD.encode()), "contact sheet")
    items = "\n".join(map(_item, hits))
    count = f"{len(hits)} image{'s' * (len(hits) != 1)}"
    page = (
        _HEAD + '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1><p>{count}, best first</p>\n<ol>\n{items}\n</ol>"
        "</body></html>\n"
    )
    write_text(path, page)


def _item(hit: Hit) -> str:
    name, tags = html.escape(hit.image), html.escape(", ".join((*hit.given, *hit.found)))
    return (
        f'<li><div class="image">{_shown(hit)}</div><div class="text">'
        f'<span class="score">{hit.score:.3f}</span><div class="name">{name}</div>'
        f'<div class="tags">{tags}</div></div></li>'
    )


def _shown(hit: Hit) -> str:
    if hit.missing:
        return '<span class="gone">the file is gone</span>'
    try:
        image = read_image(hit.path, at_least=PIXELS)
    except DataError:
        return '<span class="gone">the file cannot be read</span>'
    image.thumbnail((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(hit.image)}" src="data:image/jpeg;base64,{data}">'
