"""`trmml data export`: labels in the form of another program; parse, call, print."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli import options
from trmml.cli.output import print_json, say, show, shown_progress
from trmml.cli.reading import TableOptions, read_images, read_names
from trmml.cli.runs import local_run
from trmml.settings.choices import AskForm, ExchangeForm, OnBadImage

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset
    from trmml.datasets.options import Split
    from trmml.exchange.export import Exported
    from trmml.exchange.source import Kind, Source

_KINDS: "dict[Kind, str]" = {
    "run": "a run", "journal": "a journal", "table": "a table", "data": "a data set's folder"
}  # fmt: skip

Form = Annotated[ExchangeForm, typer.Argument(metavar="FORMAT", help="What to write.")]
From = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A run (with --images), a table of labels or a journal of answers (the same), or a"
        " data set's folder.",
        show_default=False,
        callback=local_run,
    ),
]
To = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help="New file for wide, long and parquet, else new folder.",
        show_default=False,
        callback=options.writable,
    ),
]
KindName = Annotated[
    str | None,
    typer.Option("--kind", metavar="NAME", help="Kind of the data set: docs/data.md. [folder]"),
]
Choice = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="A choice of its reader; may be repeated."),
]
Ask = Annotated[
    AskForm | None,
    typer.Option(
        help="label-studio: a question per category, or one list, in which what is not ticked is"
        " absent. [default: yes-no up to 30 categories]"
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="label-studio: what stands before each image's name; local files else."
    ),
]
ImageLevel = Annotated[
    bool,
    typer.Option("--image-level", help="coco: a box around the whole image for what has none."),
]
CopyImages = Annotated[
    bool, typer.Option("--copy-images", help="yolo: copy the images instead of linking to them.")
]


def export(
    form: Form,
    source: From,
    out: To,
    images: options.Images = None,
    labels: Annotated[
        Path | None, typer.Option(help="With a run: a table of what is known.")
    ] = None,
    kind: KindName = None,
    option: Choice = None,
    split: options.TrainSplit = None,
    ask: Ask = None,
    base_url: BaseUrl = None,
    image_level: ImageLevel = False,
    copy_images: CopyImages = False,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Write labels or a run's tags for other programs. Unknown stays unknown."""
    from trmml.exchange.export import export as write
    from trmml.exchange.export import needs_boxes, refuse_target
    from trmml.exchange.source import Source

    _refuse_options(form, ask=ask, base_url=base_url, image_level=image_level, copy=copy_images)
    refuse_target(form, out)
    what = _kind(
        source, kind, option=bool(option), split=split is not None, labels=labels is not None,
        encoder=encoder is not None, trust=trust, device=device != "auto",
        on_bad_image=on_bad_image != "error",
    )  # fmt: skip
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    if what == "run":
        if needs_boxes(form, image_level=image_level):
            raise typer.BadParameter(
                f"a run tags whole images, and {form} is to hold a box for each label; say coco"
                " --image-level, or another form"
            )
        found = _of_run(
            source, images, labels, table, form=form, ask=ask, encoder=encoder, trust=trust,
            device=device, on_bad_image=on_bad_image,
        )  # fmt: skip
    elif what == "data":
        found = Source.of_people(_data_set(source, images, table, kind, option, split or "train"))
    else:
        found = _known(source, what, images, table)
    done = write(
        form, found, out, ask=ask, base_url=base_url, image_level=image_level,
        images="copy" if copy_images else "link",
    )  # fmt: skip
    if json:
        print_json({**asdict(done), "out": str(done.out)})
        return
    for line in _lines(done):
        show(line)


def _refuse_options(
    form: str, *, ask: str | None, base_url: str | None, image_level: bool, copy: bool
) -> None:
    """Refuse what another format would take."""
    for option, given, needed in (
        ("--ask", ask is not None, "label-studio"),
        ("--base-url", base_url is not None, "label-studio"),
        ("--image-level", image_level, "coco"),
        ("--copy-images", copy, "yolo"),
    ):
        if given and form != needed:
            raise typer.BadParameter(f"{option} goes with {needed}, not {form}; leave it out")


def _kind(source: Path, kind: str | None, **given: bool) -> "Kind":
    """What the source is; an option that another kind of source would take is refused.

    Args:
        source: as named.
        kind: of a data set; None where it is not said.
        given: whether each option was given, by its name.
    """
    from trmml.exchange.source import kind_of

    what = "data" if kind is not None else kind_of(source)
    for name in (name for name, is_given in given.items() if is_given):
        needed: Kind = "data" if name in ("option", "split") else "run"
        if what != needed:
            raise typer.BadParameter(
                f"--{name.replace('_', '-')} goes with {_KINDS[needed]}, not with {_KINDS[what]};"
                " leave it out"
            )
    return what


def _known(source: Path, kind: "Kind", images: Path | None, table: TableOptions) -> "Source":
    """What people know by a table or a journal."""
    from trmml.exchange.source import Source, read_journal

    if images is None:
        raise typer.BadParameter(f"--images is needed: the folder of the images of {source}")
    if kind == "table":
        return Source.of_people(read_images(images, source, table))
    if table != TableOptions(None, None, None, None):
        raise typer.BadParameter("--categories, --blank and alike explain a table, not a journal")
    applied = read_journal(source, images)
    for line in applied.lines():
        say(line)
    return Source.of_people(applied.data)


def _data_set(
    source: Path,
    images: Path | None,
    table: TableOptions,
    kind: str | None,
    option: Sequence[str] | None,
    split: "Split",
) -> "Dataset":
    """A split of a data set's folder."""
    from trmml.datasets.catalog import read_named

    if images is not None or table != TableOptions(None, None, None, None):
        raise typer.BadParameter(
            "a data set has its own images; say --option NAME=VALUE for what its labels mean"
        )
    if kind is None and not any(source.glob("*.csv")) and not any(source.glob("*.parquet")):
        raise typer.BadParameter(
            f"{source} is no run and holds no table; say --kind NAME, for example --kind yolo:"
            " docs/data.md lists them"
        )
    return read_named(kind or "folder", source, split, options.named_values(option, "--option"))


def _of_run(
    run: Path,
    images: Path | None,
    labels: Path | None,
    table: TableOptions,
    *,
    form: ExchangeForm,
    ask: AskForm | None,
    encoder: str | None,
    trust: bool,
    device: str,
    on_bad_image: OnBadImage,
) -> "Source":
    """What a run says of the images of a folder, or of those that a table names."""
    from trmml.curation.collection import read_collection
    from trmml.exchange.export import refuse_names
    from trmml.exchange.source import Source, open_images
    from trmml.training.run_folder import load_card

    if images is None:
        raise typer.BadParameter(f"--images is needed: the folder of images that {run} is to tag")
    if labels is None and table != TableOptions(None, None, None, None):
        raise typer.BadParameter("--categories, --blank and alike explain a table: --labels TABLE")
    names = load_card(run).category_names
    if labels is None:
        data = open_images(images, names)
    else:
        data = read_images(images, labels, table)
        others = sorted({*data.category_names} - {*names})
        if others:
            say(f"left out, for the run does not know them: {', '.join(others)}")
    refuse_names(form, data.images, names, ask)
    with shown_progress() as progress:
        return Source.of_run(
            read_collection(
                run, data, encoder=encoder, trust=trust, device=device,
                on_bad_image=on_bad_image, progress=progress,
            )
        )  # fmt: skip


def _lines(done: "Exported") -> list[str]:
    """What was written, for people, and what was not."""
    by_run = f" ({done.tags} of them tags of the run)" if done.tags else ""
    return [
        f"{done.out}: {done.images} images, {done.categories} categories",
        f"{done.present} pairs present{by_run}, {done.absent} absent, {done.unknown} unknown;"
        f" {done.boxes} boxes",
        *(f"not kept: {sentence}" for sentence in done.lost),
    ]
