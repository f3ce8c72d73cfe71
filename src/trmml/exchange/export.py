"""Write labels in the form of another program, whole or not at all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from trmml.datasets.base import Dataset
from trmml.datasets.tables.changed import table_rows, write_csv
from trmml.errors import DataError
from trmml.exchange.coco import write_coco
from trmml.exchange.cvat import write_cvat
from trmml.exchange.fiftyone import write_fiftyone
from trmml.exchange.label_studio import ask_form, write_label_studio
from trmml.exchange.source import Source
from trmml.exchange.writing import boxes_by_image, refuse_unfit, refuse_without_box
from trmml.exchange.yolo import write_yolo
from trmml.settings.choices import AskForm, ExchangeForm, ImageTransfer
from trmml.storage.atomic import refuse_old, whole_file
from trmml.storage.drafts import draft_folder, remove_abandoned_drafts

# Beside a form that cannot say all: a table with the three states of what people know.
LABELS = "trmml.csv"
_TABLES = ("wide", "long", "parquet")
_BOXES_ALONE: dict[ExchangeForm, str] = {
    "coco": "A box around the whole image would teach a detector nonsense: say --image-level if"
    " only what is in an image is asked for.",
    "yolo": "YOLO's files say nothing but boxes. For tags of whole images: trmml data export coco"
    " --image-level.",
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        out: file of a table, else folder.
        images: how many.
        categories: how many.
        present: pairs written as present, also tags of a run.
        tags: how many of these a run said.
        absent: pairs known to be absent.
        unknown: all others.
        boxes: how many were written.
        lost: what the form cannot say, a sentence each.
    """

    out: Path
    images: int
    categories: int
    present: int
    tags: int
    absent: int
    unknown: int
    boxes: int
    lost: tuple[str, ...]


def export(
    form: ExchangeForm,
    source: Source,
    out: Path,
    *,
    ask: AskForm | None = None,
    base_url: str | None = None,
    image_level: bool = False,
    images: ImageTransfer = "link",
) -> Exported:
    """Write a source in another form: a table as a file, anything else as a folder.

    Args:
        form: which.
        source: labels, and perhaps a run's tags, which count as present.
        out: must not exist.
        ask: for label-studio, see `write_label_studio`.
        base_url: for label-studio, the same.
        image_level: for coco, write a box around the whole image where a present pair has none.
        images: for yolo, which alone needs the images beside the labels.

    Raises:
        DataError: `out` exists, the form cannot hold the labels, a name or an image twice, or it
            needs a box that no one drew.
    """
    refuse_target(form, out)
    data, boxes = source.shown, 0
    ask = ask_form(ask, len(data.category_names))
    refuse_names(form, data.images, data.category_names, ask)
    drawn = boxes_by_image(data) if form in _BOXES_ALONE else {}
    if needs_boxes(form, image_level=image_level):
        refuse_without_box(data, drawn, _BOXES_ALONE[form])
    if form in _TABLES:
        with whole_file(out) as part:
            _write_table(form, data, part)
    else:
        with draft_folder(out) as draft:
            match form:
                case "label-studio":
                    write_label_studio(draft, source, ask, base_url)
                case "fiftyone":
                    write_fiftyone(draft, source)
                case "cvat":
                    boxes = write_cvat(draft, source)
                case "coco":
                    boxes = write_coco(draft, source, drawn)
                case "yolo":
                    boxes = write_yolo(draft, source, drawn, images)
            if _has_table(form, ask):
                # Without the run's tags: a run that is trained on them would learn from itself.
                write_csv(draft / LABELS, table_rows(source.data, "wide"))
            draft.rename(out)
    return _exported(form, source, out, boxes, ask)


def needs_boxes(form: ExchangeForm, *, image_level: bool) -> bool:
    """Whether a form can write a present label only with its box, which a run's tags never have.

    Args:
        form: what is to be written.
        image_level: see `export`.
    """
    return form in _BOXES_ALONE and not (form == "coco" and image_level)


def refuse_target(form: ExchangeForm, out: Path) -> None:
    """Refuse a place where nothing can be written; ask before anything long begins.

    Args:
        form: what is to be written.
        out: its place.

    Raises:
        DataError: something is there, or the folder of a table is not.
    """
    remove_abandoned_drafts(out)
    refuse_old(out)
    if form in _TABLES and not out.absolute().parent.is_dir():
        raise DataError(
            f"there is no folder {out.parent} for {out.name}. Make it, or name another."
        )


def refuse_names(
    form: ExchangeForm, images: Sequence[str], category_names: Sequence[str], ask: AskForm | None
) -> None:
    """Refuse names that the form or its table cannot hold; ask before anything long begins.

    Args:
        form: what is to be written.
        images: names below their folder.
        category_names: of the labels.
        ask: for label-studio, see `write_label_studio`.

    Raises:
        DataError: a category is called as the column of images, an image is listed twice, or its
            name is no text.
    """
    taken = [name for name in category_names if name.casefold() == "image"]
    if taken:
        raise DataError(
            f"category {taken[0]!r} has the name of the column of images, so no table holds both."
            " Rename it."
        )
    refuse_unfit(images, "image", "a table in UTF-8")
    twice = [name for name, count in Counter(images).items() if count > 1]
    if twice and (form in _TABLES or _has_table(form, ask_form(ask, len(category_names)))):
        raise DataError(
            f"{len(twice)} images are listed more than once, as {twice[0]!r}, and {form} has one"
            " row, label file or key for each image. Keep one row per image; or take `trmml data"
            " convert`, which makes an image of each row, and export what it writes."
        )


def _has_table(form: ExchangeForm, ask: AskForm) -> bool:
    """Whether a folder of this form has the table beside it, which also keeps what is unknown."""
    return form not in _TABLES and (form != "label-studio" or ask == "choices")


def _write_table(form: ExchangeForm, data: Dataset, path: Path) -> None:
    if form != "parquet":
        write_csv(path, table_rows(data, form))
        return
    columns = [pl.Series("image", data.images, pl.String)]
    for c, name in enumerate(data.category_names):
        known = pl.Series(data.matrix.known[:, c].numpy())
        labels = pl.Series(name, data.matrix.labels[:, c].numpy())
        columns.append(labels.set(~known, None))
    pl.DataFrame(columns).write_parquet(path)


def _exported(form: ExchangeForm, source: Source, out: Path, boxes: int, ask: AskForm) -> Exported:
    data, tags = source.shown, int(source.tags.sum())
    present, absent = int(data.matrix.positives.sum()), int(data.matrix.negatives.sum())
    unknown = data.matrix.known.numel() - present - absent
    held = 0 if data.boxes is None else len(data.boxes)
    lost = _lost(form, ask, absent, unknown)
    if tags and _has_table(form, ask):
        lost.append(f"{LABELS} has what people know alone, without the {tags} tags of the run")
    if held > boxes:
        lost.append(f"{held - boxes} boxes are left out")
    return Exported(out, len(data), len(data.category_names), present, tags, absent, unknown,
                    boxes, tuple(lost))  # fmt: skip


def _lost(form: ExchangeForm, ask: AskForm, absent: int, unknown: int) -> list[str]:
    """What the form cannot say of these labels."""
    if not absent + unknown or form in _TABLES or (form == "label-studio" and ask == "yes-no"):
        return []
    kept = f"{LABELS} keeps the three states"
    if form == "label-studio":
        return [f"what is not ticked counts as absent in an answered task, also {unknown} unknown"
                f" pairs; {kept}"]  # fmt: skip
    if form == "coco":
        return [f"neg_category_ids, which few programs read, holds {absent} absent pairs; {kept}"]
    return [f"{form} says what is present alone, not which of {absent + unknown} other pairs are"
            f" absent and which unknown; {kept}"]  # fmt: skip
