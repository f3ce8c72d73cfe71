"""`trmml data`: check data sets as they were published, and write them in the plain form."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trmml.cli import options
from trmml.cli.app import Verb, examples
from trmml.cli.export import export
from trmml.cli.output import print_json, print_table, say, show, shown_progress
from trmml.settings.choices import ImageTransfer

if TYPE_CHECKING:
    from trmml.datasets.check import Checked, Problem
    from trmml.datasets.options import Split

data = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Check data sets, and write them in other forms.",
)

_SHOWN = 5  # files that a problem lists; --json lists all

Name = Annotated[str, typer.Argument(help="coco2014, voc2007, nuswide, folder ...: docs/data.md.")]
Root = Annotated[Path, typer.Argument(help="Folder of its files.", show_default=False)]
Choice = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="A choice of the reader; may be repeated."),
]
Part = Annotated[
    Literal["both", "train", "test"], typer.Option("--split", help="Which part of the set.")
]


@data.command(
    cls=Verb,
    epilog=examples(
        "trmml data check coco2014 data/coco --option images=annotated",
        "trmml data check voc2007 data/VOCdevkit --decode --json",
        "trmml data check yolo data/signs --split train",
    ),
)
def check(
    name: Name,
    root: Root,
    option: Choice = None,
    split: Part = "both",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image as well.")] = False,
    json: options.Json = False,
) -> None:
    """Count a data set and name what is missing or broken. Exit code 1 when something is."""
    from trmml.datasets.check import check as run_check

    choices = options.named_values(option, "--option")
    with shown_progress() as progress:
        checked = run_check(
            name, root, choices, splits=_parts(split), decode=decode, progress=progress
        )
    if json:
        print_json(checked.to_dict())
    else:
        _print(checked)
    if not checked.ok:
        raise typer.Exit(1)


@data.command(
    cls=Verb,
    epilog=examples(
        "trmml data convert voc2007 data/VOCdevkit data/voc-plain --option difficult=unknown",
        "trmml data convert label-studio export plain --images copy --split train",
    ),
)
def convert(
    name: Name,
    root: Root,
    out: Annotated[
        Path,
        typer.Argument(help="New folder.", show_default=False, callback=options.writable_folder),
    ],
    option: Choice = None,
    split: Part = "both",
    images: Annotated[
        ImageTransfer | None,
        typer.Option(
            help="Link to the images where they are, or copy. Default: link, but copy what was "
            "unpacked.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write a data set in the plain form. Images, train.csv, test.csv, names and boxes."""
    from trmml.datasets.convert import convert as run_convert

    choices = options.named_values(option, "--option")
    done = run_convert(name, root, out, choices, splits=_parts(split), images=images)
    if json:
        counts = {"categories": done.categories, "boxes": done.boxes}
        print_json({"folder": str(done.folder), "images": dict(done.images), **counts})
        return
    sizes = ", ".join(f"{count} {part}" for part, count in done.images.items())
    typer.echo(f"{done.folder}: {sizes} images, {done.categories} categories, {done.boxes} boxes")


data.command(
    cls=Verb,
    epilog=examples(
        "trmml data export label-studio runs/photos tasks --images photos",
        "trmml data export coco labels.csv coco --images photos --image-level",
        "trmml data export yolo data/voc yolo --kind voc-xml --option blank=absent",
        "trmml data export parquet answers.sqlite answers.parquet --images photos",
    ),
)(export)


def _parts(split: str) -> "tuple[Split, ...]":
    if split == "both":
        return ("train", "test")
    return ("train",) if split == "train" else ("test",)


def _print(checked: "Checked") -> None:
    """The counts on stdout as a table, then what is wrong and what to do, then notes."""
    from rich.table import Table

    table = Table("split", "images", "published", "categories", "known %", "positives", "boxes")
    for count in checked.splits:
        published = "-" if count.expected is None else f"{count.expected.images}"
        boxes = "-" if count.boxes is None else str(count.boxes)
        cells = (count.split, count.images, published, count.categories)
        more = (f"{100 * count.known_share:.1f}", count.positives, boxes)
        table.add_row(*(str(cell) for cell in (*cells, *more)))
    if checked.splits:
        print_table(table)
    for problem in checked.problems:
        for line in _lines(problem):
            show(line)
    for note in checked.notes:
        show(f"note: {note}")
    counted = "problem" if len(checked.problems) == 1 else "problems"
    say("nothing is wrong" if checked.ok else f"{len(checked.problems)} {counted}")


def _lines(problem: "Problem") -> list[str]:
    where = f"{problem.split}: " if problem.split else ""
    files = [f"  {name}" for name in problem.files[:_SHOWN]]
    left = len(problem.files) - len(files)
    more = [f"  and {left} more; --json lists all"] if left > 0 else []
    return [f"wrong: {where}{problem.what}", *files, *more, f"  do: {problem.advice}"]
