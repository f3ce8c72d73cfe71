"""`trmml index` and `trmml search`: parse, call, print."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trmml.cli import options
from trmml.cli.app import Verb, examples
from trmml.cli.output import fail, print_json, print_table, printable, say, show, shown_progress
from trmml.cli.reading import TableOptions, read_images
from trmml.cli.runs import local_run
from trmml.cli.sidecar_report import (
    DEFAULT_LEDGER,
    LedgerOption,
    known_ledger,
    tell_of_raw,
    tell_refused,
    tell_shared,
)

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset
    from trmml.search.build import Built
    from trmml.search.index import Found, Hit

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the images.", show_default=False)
]
RunOption = Annotated[
    Path,
    typer.Option(
        "--run",
        help="Folder of a finished run, or hf:NAME on the Hub.",
        show_default=False,
        callback=local_run,
    ),
]
IndexOut = Annotated[
    Path,
    typer.Option(
        "--out",
        help="Folder of the index; the same one is brought up to date.",
        show_default=False,
        callback=options.writable_folder,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Names below DIR to leave out; may be repeated."),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="OUT", help="Job of `trmml batch tag`, whose images are not encoded anew."
    ),
]
Sidecars = Annotated[
    bool,
    typer.Option(
        "--sidecars", help="Keywords of XMP sidecars are tags, too; --labels count first."
    ),
]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Make the index of another run or folder anew, in its place."),
]
Ann = Annotated[
    bool,
    typer.Option("--ann", help="Also make it fast beyond a million images, and print the recall."),
]
IndexFolder = Annotated[
    Path,
    typer.Argument(metavar="INDEX", help="Folder that `trmml index` wrote.", show_default=False),
]
Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT]...", help="What to see, as 'harbour at dusk' or '2:red car'."),
]
TagOption = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="NAME[:P]", help="Only images with this category."),
]
NotOption = Annotated[
    list[str] | None,
    typer.Option("--not", metavar="NAME[:P]", help="Only images without this category."),
]
Like = Annotated[
    list[str] | None,
    typer.Option(metavar="IMAGE", help="A file, or an image of the index, to resemble."),
]
Unlike = Annotated[list[str] | None, typer.Option(metavar="IMAGE", help="One not to resemble.")]
Box = Annotated[
    str | None,
    typer.Option(metavar="L,T,R,B", help="A part of the one --like, as shares of its sides."),
]
Parts = Annotated[
    bool, typer.Option("--part", help="Look for the query in parts of the best 1000 images.")
]
TopHits = Annotated[int, typer.Option("--top", min=1, help="At most so many images.")]
Least = Annotated[
    str | None,
    typer.Option(
        "--min", metavar="SCORE|auto", help="Least score; auto is what chance hardly reaches."
    ),
]
HitFormat = Annotated[
    Literal["table", "json", "csv", "paths"], typer.Option("--format", help="How to print.")
]
Paths = Annotated[bool, typer.Option("--paths", help="Short for --format paths, one a line.")]
ZeroPaths = Annotated[bool, typer.Option("--null", "-0", help="Paths end with a zero byte.")]
Sheet = Annotated[
    Path | None,
    typer.Option(help="Also write a contact sheet, one HTML file.", callback=options.writable_file),
]
Root = Annotated[Path | None, typer.Option(help="Where the images lie now, if they were moved.")]


def add_commands(app: typer.Typer) -> None:
    """Add the two verbs of this module."""
    app.command(
        cls=Verb,
        epilog=examples(
            "trmml index photos --run runs/photos --out photos.index",
            "trmml index photos --run runs/photos --out photos.index --labels labels.csv \\",
            "    --exclude 'raw/*' --sidecars",
        ),
    )(index)
    app.command(
        cls=Verb,
        epilog=examples(
            "trmml search photos.index 'harbour at dusk' --tag boat --not person",
            "trmml search photos.index --like holiday/12.jpg --box 0.1,0.2,0.5,0.6 --top 50",
            "trmml search photos.index 'red car' --min auto --sheet found.html",
            "trmml search photos.index --tag dog:0.8 -0 --top 1000 | xargs -0 cp -t dogs",
        ),
    )(search)


def index(
    images: Folder,
    run: RunOption,
    out: IndexOut,
    labels: options.Labels = None,
    also: options.Also = None,
    exclude: Exclude = None,
    sidecars: Sidecars = False,
    ledger: LedgerOption = DEFAULT_LEDGER,
    tagged: From = None,
    replace: Replace = False,
    ann: Ann = False,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    device: options.Device = "auto",
    store: options.Store = None,
    store_form: options.StoreForm = "fp16",
    live: options.Live = False,
    encoder_precision: options.EncoderPrecision = "fp32",
    json: options.Json = False,
) -> None:
    """Describe a folder of images for `trmml search`."""
    from trmml.cli.reading import read_names
    from trmml.search.build import build_index

    if labels is None and any((categories, blank, minus_one, separator)):
        raise typer.BadParameter("--categories, --blank and alike explain the table of --labels")
    if not sidecars and ledger != DEFAULT_LEDGER:
        raise typer.BadParameter("--ledger goes with --sidecars: it says which words trmml wrote")
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    labelled = None if labels is None else read_images(images, labels, table)
    if sidecars:
        labelled = _with_keywords(images, labelled, ledger)
    known = None
    if tagged is not None:
        from trmml.scale.described import described_by

        known = described_by(tagged, run)
    with shown_progress() as progress:
        built = build_index(
            run,
            images,
            out,
            labels=labelled,
            also=also or (),
            exclude=exclude or (),
            replace_other=replace,
            approximate=ann,
            encoder=encoder,
            trust=trust,
            device=device,
            encoding=options.encoding(store, store_form, live, encoder_precision),
            known=known,
            progress=progress,
        )
    if built.lost:
        say(
            f"the index knew more of {built.lost} images; --labels and --sidecars take the place of"
            " all labels that were there. Give both to keep both"
        )
    if json:
        print_json(built.to_dict())
    else:
        _tell(built, out, ann)


def _tell(built: "Built", out: Path, ann: bool) -> None:
    """What was done, for a person."""
    show(
        f"{built.images} images in {out}: {built.new} new, {built.changed} changed,"
        f" {built.removed} removed"
    )
    if built.unreadable:
        say(f"{built.unreadable} images cannot be read; they are in the index with their error")
    if built.recall is not None:
        show(f"recall of the approximate search, first 50: {built.recall:.3f}")
    elif ann:
        from trmml.search.approximate import FEWEST

        say(f"--ann is left out: fewer than {FEWEST:,} images are searched exactly")


def _with_keywords(images: Path, labelled: "Dataset | None", ledger: Path) -> "Dataset":
    """The labels, with the words that people wrote into sidecars."""
    from trmml.exchange.keyword_table import read_keywords, with_keywords
    from trmml.exchange.naming import raw_sidecars
    from trmml.image_search import find_images

    found = read_keywords(find_images([images]), ledger=known_ledger(ledger))
    tell_shared(found.shared)
    tell_of_raw(raw_sidecars(found.words), "count for these images, too")
    tell_refused(found.refused)
    return with_keywords(found, images, labelled)


def search(
    folder: IndexFolder,
    texts: Texts = None,
    tag: TagOption = None,
    without: NotOption = None,
    like: Like = None,
    unlike: Unlike = None,
    box: Box = None,
    part: Parts = False,
    top: TopHits = 20,
    least: Least = None,
    style: HitFormat = "table",
    json: options.Json = False,
    paths: Paths = False,
    null: ZeroPaths = False,
    sheet: Sheet = None,
    root: Root = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    store: options.Store = None,
    store_form: options.StoreForm = "fp16",
    live: options.Live = False,
) -> None:
    """Find images by what they show, by categories and by other images."""
    from trmml.search.index import Embedder, Index
    from trmml.search.query import parse_query
    from trmml.search.table import IndexCard

    def embedder(card: IndexCard) -> Embedder:
        from trmml.search.encoder import EncoderEmbedder  # torch takes seconds to import

        encoding = options.encoding(store, store_form, live, "fp32")
        return EncoderEmbedder(card, encoder=encoder, trust=trust, encoding=encoding, where=folder)

    query = parse_query(
        texts or (),
        like=like or (),
        unlike=unlike or (),
        tags=tag or (),
        without=without or (),
        box=box,
    )
    found = Index(folder, embedder, root=root).search(
        query, top=top, least=_least(least), parts=part
    )
    if sheet is not None:
        from trmml.search.sheet import write_sheet

        words = [*(texts or ()), *(f"+{name}" for name in tag or ())]
        words += [f"-{name}" for name in without or ()]
        words += [f"like {Path(name).name}" for name in like or ()]
        write_sheet(sheet, " ".join(words), found.hits)
    style = "json" if json else "paths" if paths or null else style
    _print(found, style, "\0" if null else "\n")


def _least(given: str | None) -> float | Literal["auto"] | None:
    if given is None or given == "auto":
        return given  # type: ignore[return-value]
    try:
        return float(given)
    except ValueError:
        fail(f"--min takes a number or auto, got {given!r}")


def _print(found: "Found", style: str, end: str) -> None:
    """What was found, on stdout; what is said of it, on stderr."""
    if found.cut is not None and style == "table":
        say(f"least score: {found.cut:.3f}")
    if style == "json":
        print_json({"least": found.cut, "hits": [hit.to_dict() for hit in found.hits]})
    elif style == "paths":
        for hit in found.hits:
            sys.stdout.write(f"{hit.path}{end}")
    elif style == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", "path", "score", "given", "found", "missing"])
        for hit in found.hits:
            names = [";".join(hit.given), ";".join(hit.found)]
            writer.writerow([hit.image, hit.path, f"{hit.score:.6f}", *names, int(hit.missing)])
    elif found.hits:
        _table(found.hits)
    else:
        say("nothing is found; take a filter away, or lower --min")


def _table(hits: "list[Hit]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "score", "known", "found")
    for hit in hits:
        name = f"{hit.image} (missing)" if hit.missing else hit.image
        cells = (name, f"{hit.score:.3f}", ", ".join(hit.given), ", ".join(hit.found))
        table.add_row(*(Text(printable(cell).replace("\n", "\\n")) for cell in cells))
    print_table(table)
