"""Write drawn images as a folder with tables, in the form that users have."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Int8

from trmml.errors import ConfigError, DataError
from trmml.settings.choices import StyleName
from trmml.storage.drafts import draft_folder
from trmml.synthetic.categories import CATEGORY_NAMES
from trmml.synthetic.compose import Scene, draw_scene
from trmml.synthetic.styles import find_style

_FEW: Final = 200  # images below which starting processes costs more than it saves
_BOX_COLUMNS: Final = ("category", "left", "top", "right", "bottom", "visible_share")


def write_scenes(
    folder: Path,
    *,
    images: int,
    seed: int,
    style: StyleName = "demo",
    known_share: float = 0.3,
    processes: int | None = None,
) -> None:
    """Write a folder of generated images, their labels, captions and boxes, and a README.

    The same arguments give the same bytes, however many processes draw. Everything is written
    beside `folder` first and moved there when complete.

    Args:
        folder: must not exist or be empty.
        images: how many, at least 1.
        seed: not negative; image k depends on the seed, the style and k alone.
        style: "demo", or "caption" for the one that the bundled encoder was trained on.
        known_share: in (0, 1], share of entries that `labels_partial.csv` keeps.
        processes: None: few images are drawn in this process, many in one process per core.
    """
    find_style(style)
    _check(folder, images, seed, known_share, processes)
    if processes is None:
        processes = 1 if images < _FEW else _cores()
    with draft_folder(folder) as draft:
        (draft / "images").mkdir()
        truth = _draw(draft, images, seed, style, min(processes, images))
        _write_tables(draft, truth, seed, known_share)
        text = _README.format(images=images, seed=seed, style=style, known_share=known_share)
        (draft / "README.md").write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(folder: Path, images: int, seed: int, known_share: float, processes: int | None) -> None:
    if images < 1:
        raise ConfigError(f"images: expected at least 1, got {images}")
    if seed < 0:
        raise ConfigError(f"seed: expected 0 or more, got {seed}")
    if not 0 < known_share <= 1:
        raise ConfigError(f"known_share: expected a share in (0, 1], got {known_share}")
    if processes is not None and processes < 1:
        raise ConfigError(f"processes: expected at least 1 or None, got {processes}")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder to write to, found a file; name another")
    if folder.exists() and any(folder.iterdir()):
        raise DataError(
            f"{folder}: expected an empty or absent folder, found files in it; "
            "name another folder or empty this one first"
        )


# --- drawing ---------------------------------------------------------------------------------

Truth = dict[str, object]


def _draw(draft: Path, images: int, seed: int, style: StyleName, processes: int) -> list[Truth]:
    """Draw all images, each process every n-th, and return the truth of each image."""
    if processes == 1:
        return draw_part(draft, range(images), seed, style)
    command = [sys.executable, "-m", "trmml.synthetic.worker", str(draft.resolve())]
    running = [
        subprocess.Popen(
            [*command, str(images), str(seed), style, str(start), str(processes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for start in range(processes)
    ]
    truth: list[Truth] = [{}] * images
    for start, worker in enumerate(running):
        output, errors = worker.communicate()
        if worker.returncode:
            last = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise DataError(f"{draft}: a drawing process failed: {' '.join(last)}")
        truth[start::processes] = json.loads(output)
    return truth


def draw_part(draft: Path, numbers: Iterable[int], seed: int, style: StyleName) -> list[Truth]:
    """Draw some of the images into `draft` and return the truth of each."""
    truth: list[Truth] = []
    for number in numbers:
        key = np.random.SeedSequence([seed, number, int(style == "demo")])
        scene = draw_scene(np.random.default_rng(key), style)
        name = f"images/{number:06d}.jpg"
        scene.image.save(draft / name, quality=scene.quality)
        truth.append(_truth(name, scene))
    return truth


def _truth(name: str, scene: Scene) -> Truth:
    present = list(scene.category_indices)
    boxes = [
        (CATEGORY_NAMES[box.category], box.left, box.top, box.right, box.bottom, box.visible_share)
        for box in scene.boxes
    ]
    return {"image": name, "present": present, "caption": scene.caption, "boxes": boxes}


# --- tables ----------------------------------------------------------------------------------


def _write_tables(draft: Path, truth: list[Truth], seed: int, known_share: float) -> None:
    import polars as pl  # half a second to import, and drawing alone does without

    images = [row["image"] for row in truth]
    labels = np.zeros((len(truth), len(CATEGORY_NAMES)), dtype=np.int8)
    for number, row in enumerate(truth):
        labels[number, row["present"]] = 1  # type: ignore[index]
    known = np.random.RandomState(seed).random_sample(labels.shape) < known_share
    _write_wide(draft / "labels.csv", images, labels, np.ones_like(known))
    _write_wide(draft / "labels_partial.csv", images, labels, known)
    captions = pl.DataFrame({"image": images, "caption": [row["caption"] for row in truth]})
    captions.write_csv(draft / "captions.csv")
    rows = [(row["image"], *box) for row in truth for box in row["boxes"]]  # type: ignore[attr-defined]
    pl.DataFrame(rows, schema=["image", *_BOX_COLUMNS], orient="row").write_csv(draft / "boxes.csv")


def _write_wide(
    path: Path,
    images: list[object],
    labels: Int8[np.ndarray, "n c"],
    known: Bool[np.ndarray, "n c"],
) -> None:
    import polars as pl

    columns: dict[str, list[object]] = {"image": images}
    for index, name in enumerate(CATEGORY_NAMES):
        pairs = zip(labels[:, index].tolist(), known[:, index].tolist(), strict=True)
        columns[name] = [label if is_known else None for label, is_known in pairs]
    schema = {"image": pl.String} | dict.fromkeys(CATEGORY_NAMES, pl.Int8)
    pl.DataFrame(columns, schema=schema).write_csv(path)


_README: Final = """\
# Generated scenes

{images} images drawn by trmml from seed {seed} in the style "{style}". They show up to seven of
48 categories in eight settings. Nothing here was photographed; anyone may use it for anything.

| File | What it holds |
|---|---|
| `images/` | the images, JPEG, of varying size |
| `labels.csv` | one row per image, one column per category: 1 present, 0 absent. Complete |
| `labels_partial.csv` | the same with blanks: only {known_share:.0%} of the entries are known |
| `captions.csv` | one sentence per image |
| `boxes.csv` | one row per object: category, edges in pixels, visible share |

In `boxes.csv` right and bottom are exclusive. A category counts as present when at least 30 % of
one of its objects is visible. An entry of `labels_partial.csv` is known where
`numpy.random.RandomState({seed}).random_sample((images, categories)) < {known_share}`, so a larger
share only ever adds entries.

The same images again: `write_scenes(folder, images={images}, seed={seed}, style="{style}",
known_share={known_share})`.
"""
