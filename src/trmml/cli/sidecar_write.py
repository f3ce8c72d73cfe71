"""`trmml sidecar write`: tags, tables and answers into XMP sidecars; parse, call, print."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trmml.cli import options
from trmml.cli.output import print_json, say, show, shown_progress
from trmml.cli.reading import named_paths, read_names
from trmml.cli.runs import fetched

if TYPE_CHECKING:
    from trmml.exchange.readers import Program
    from trmml.exchange.sidecars import Job, Manner, Report
    from trmml.exchange.sources import Worded

PROGRAMS: "tuple[Program, ...]" = (
    *("digikam", "darktable", "immich", "photoprism"),
    "lightroom",
)
SHOWN = 5  # files that a line of the summary names; --json has all

LedgerOption = Annotated[
    Path,
    typer.Option("--ledger", metavar="FILE", help="Ledger of all that was added, for `undo`."),
]
UnderOption = Annotated[
    str | None,
    typer.Option(
        "--under", metavar="NAME", help="Root in the tree of keywords for trmml's words, as AI."
    ),
]
DEFAULT_LEDGER = Path("sidecars.jsonl")


def write(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] IMAGES...",
            help="Folder of a finished run, then files, folders and patterns; - reads a list from"
            " stdin. With --from the run may be left out.",
            show_default=False,
        ),
    ],
    from_: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Table of labels, or answers of `trmml review`; may be repeated, and the last"
            " counts first. What is absent there is never written.",
        ),
    ] = None,
    accept: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="Which tags of the run count: threshold or sure=P; with --from TABLE also"
            " precision=P, as in complete.",
        ),
    ] = "threshold",
    for_: Annotated[
        str, typer.Option("--for", metavar="NAMES", help=f"Of {', '.join(PROGRAMS)}.")
    ] = ",".join(PROGRAMS[:4]),
    naming: Annotated[
        Literal["ext", "lightroom"],
        typer.Option(help="New sidecars are a.jpg.xmp; with lightroom those of raw files a.xmp."),
    ] = "ext",
    under: UnderOption = None,
    provenance: Annotated[
        bool,
        typer.Option("--provenance", help="Keep name, probability and run in the sidecar, too."),
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a parallel tree, for archives that may only be read.",
            callback=options.writable_folder,
        ),
    ] = None,
    bare: Annotated[
        bool,
        typer.Option(
            "--bare",
            help="Do not take over keywords that are in the image itself, readable or not.",
        ),
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Write the sidecar of the raw file beside, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; print what would change.")
    ] = False,
    ledger: LedgerOption = DEFAULT_LEDGER,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="With --for lightroom: table of images whose sidecars Lightroom does not read.",
            callback=options.writable,
        ),
    ] = None,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    on_bad_image: options.BadImage = "skip",
    precision: options.TagPrecision = "auto",
    device: options.Device = "auto",
    null: options.Null = False,
    json: options.Json = False,
) -> None:
    """Write tags into XMP sidecars. Images stay as they are; what is in a sidecar stays, too."""
    from trmml.exchange.naming import found_images, raw_sidecars, shared
    from trmml.exchange.plan import Plan
    from trmml.exchange.sidecars import Manner, write_sidecars
    from trmml.exchange.words import fields_of
    from trmml.storage.atomic import refuse_old

    programs = _programs(for_)
    manner = Manner(fields_of(programs), _root_of(under), provenance, bare)
    named = named_paths(images, null)
    run = _run_of(named, from_ or [])
    if run is None and accept != "threshold":
        raise typer.BadParameter("--accept goes with a run; a table says itself what is present")
    if csv is not None:
        if "lightroom" not in programs:
            raise typer.BadParameter("--csv goes with --for lightroom")
        refuse_old(csv)
    found = found_images(named)
    tables = {
        "blank": blank, "minus_one": minus_one, "separator": separator,
        "categories": read_names(categories),
    }  # fmt: skip
    how = {
        "encoder": encoder, "trust": trust, "device": device, "on_bad_image": on_bad_image,
        "precision": precision,
    }  # fmt: skip
    bad: list[tuple[Path, str]] = []
    words = _words(run, found, from_ or [], accept, tables, how, bad)
    diffs: dict[str, str] = {}
    plan = Plan(found, "lightroom" if "lightroom" in programs else naming, to, pairs, programs, csv)
    if dry_run:
        report = _dry(plan.jobs(words), manner, diffs if json else None)
    else:
        options.writable(ledger)
        report = write_sidecars(plan.jobs(words), ledger, manner)
    tell_shared(shared((image, plan.sidecar_of(image)) for image in found))
    if not pairs:
        tell_of_raw(raw_sidecars(found), "are left alone; --pairs writes them, too")
    command = "" if dry_run else plan.write_csv(manner.under)
    exiftool = {"exiftool": command, "exiftool_folder": str(plan.root) if command else ""}
    if plan.rows and csv is None:
        say(f"Lightroom reads no sidecars of {len(plan.rows)} of the images, as they are no raw"
            " files; --csv FILE writes a table for exiftool")  # fmt: skip
    report.refused += [(Path(f"the name {name!r}"), why) for name, why in plan.refused.items()]
    report.refused += bad
    _tell(report, ledger, exiftool, json=json, diffs=diffs if dry_run else None)


def _programs(names: str) -> "tuple[Program, ...]":
    words = [name.strip().lower() for name in names.split(",")]
    found = tuple(name for name in PROGRAMS if name in words)
    if not found or {*words} - {*found, ""}:
        raise typer.BadParameter(f"--for {names!r}: expected names of {', '.join(PROGRAMS)}")
    return found


def _root_of(under: str | None) -> tuple[str, ...]:
    from trmml.datasets.tables.names import clean_name
    from trmml.exchange.words import why_unwritable

    if under is None:
        return ()
    if reason := why_unwritable(under):
        raise typer.BadParameter(f"--under {under!r} {reason}")
    return (clean_name(under),)


def _run_of(named: list[str], sources: list[Path]) -> Path | None:
    """The run, taken from the front of what was named; None where tables do without."""
    from trmml.exchange.sources import is_run

    run = fetched(Path(named[0]))
    if sources and not is_run(run):
        return None
    del named[0]
    if not named:
        raise typer.BadParameter("give the folder of a run and images, or images and --from FILE")
    return run


def _words(
    run: Path | None, found: "Mapping[Path, Path]", sources: list[Path], accept: str,
    tables: dict[str, Any], how: dict[str, Any], bad: list[tuple[Path, str]],
) -> "Worded":  # fmt: skip
    """The words of each image, tags as they come."""
    from trmml.exchange.sources import is_journal, joined, said_of, tags_of

    images = list(found)
    said = said_of(sources, found, **tables) if sources else []
    if run is None:
        return joined(((image, ()) for image in images), said)
    if accept != "threshold" and not all(map(is_journal, sources)):
        return joined(_completed(run, found, sources, accept, tables, how, bad), said)
    return joined(_shown(tags_of(run, images, accept, said, bad, **how), len(images)), said)


def _completed(
    run: Path, found: "Mapping[Path, Path]", sources: list[Path], accept: str,
    tables: dict[str, Any], how: dict[str, Any], bad: list[tuple[Path, str]],
) -> "Worded":  # fmt: skip
    """What a run decides of the blanks of the one table among the sources."""
    from trmml.cli.reading import TableOptions, read_images, with_answers
    from trmml.exchange.sources import completed_by, is_journal

    labels = [source for source in sources if not is_journal(source)]
    roots = set(found.values())
    if len(labels) != 1 or len(roots) != 1:
        raise typer.BadParameter(
            f"--accept {accept} completes one table over one folder; name one of each"
        )
    tables = {**tables, "blank": tables["blank"] or "unknown"}  # as without a run
    data = read_images(roots.pop(), labels[0], TableOptions(**tables))
    for source in sources:
        data = with_answers(data, None, source) if source not in labels else data
    with shown_progress() as progress:
        how = {name: value for name, value in how.items() if name != "precision"}
        yield from completed_by(run, data, accept, list(found), bad, progress=progress, **how)


def _shown(tagged: "Worded", total: int) -> "Worded":
    with shown_progress() as progress:
        for count, each in enumerate(tagged, 1):
            yield each
            progress("tag and write", count, total)


def _dry(jobs: "Iterator[Job]", manner: "Manner", diffs: dict[str, str] | None) -> "Report":
    """What would become of the sidecars; `diffs` gets what would change, or it is printed."""
    from trmml.errors import DataError
    from trmml.exchange.sidecars import Report, change_of

    report = Report()
    for job in jobs:
        try:
            change = change_of(job, manner)
        except (DataError, OSError) as error:
            report.take(job.sidecar, error)
            continue
        if change is None:
            report.unchanged += 1
            continue
        report.count(job, change, bare=manner.bare)
        name = str(job.sidecar)
        old, new = (data.decode().splitlines() for data in (change.old or b"", change.new))
        diff = "\n".join(difflib.unified_diff(old, new, name, name, lineterm=""))
        if diffs is None:
            show(diff)
        else:
            diffs[name] = diff
    return report


def _tell(
    report: "Report", ledger: Path, exiftool: dict[str, str], *, json: bool,
    diffs: dict[str, str] | None,
) -> None:  # fmt: skip
    """Say what became of the sidecars; exit code 1 where one was not written.

    Args:
        report: what became of them.
        ledger: what `undo` is to read.
        exiftool: the command for Lightroom, and the folder of whose copy it is for; or "" twice.
        json: one object instead of lines.
        diffs: of a dry run; None where sidecars were written.
    """
    if json:
        print_json({
            **({} if diffs is None else {"diffs": diffs}),
            "written": list(map(str, report.written)), "created": list(map(str, report.created)),
            "unchanged": report.unchanged, "hiding": list(map(str, report.hiding)),
            "refused": {str(path): why for path, why in report.refused},
            "read_only": list(map(str, report.read_only)), "ledger": str(ledger.absolute()),
            **exiftool,
        })  # fmt: skip
    elif diffs is None:
        show(f"{len(report.written)} sidecars written, {len(report.created)} of them new;"
             f" {report.unchanged} had all words before")  # fmt: skip
        if report.written:
            show(f"undo:  trmml sidecar undo --ledger {ledger.absolute()}")
    if exiftool["exiftool"] and not json:
        show(
            f"Lightroom: in a copy of {exiftool['exiftool_folder']}, run\n  {exiftool['exiftool']}"
        )
    for image in report.hiding:
        say(f"{image}: some programs no longer show the keywords inside it (--bare)")
    tell_refused(report.refused)
    tell_read_only(report.read_only)
    if report.refused or report.read_only:
        raise typer.Exit(1)


def known_ledger(ledger: Path) -> Path | None:
    """The ledger of what trmml wrote; None, which is said, where no other was named."""
    if ledger.is_file():
        return ledger
    if ledger != DEFAULT_LEDGER:
        raise typer.BadParameter(f"there is no ledger {ledger}; name the one that `write` wrote")
    say(f"no ledger {ledger} here: words that trmml wrote are known by --provenance and --under"
        " alone")  # fmt: skip
    return None


def tell_shared(shared: "Mapping[Path, list[Path]]") -> None:
    """A line for each sidecar that several images have."""
    for sidecar, images in shared.items():
        names = ", ".join(image.name for image in images)
        say(f"{sidecar} is the sidecar of several images ({names}): each has the words of all;"
            f" rename it to {images[0].name}.xmp, or whichever it belongs to")  # fmt: skip


def tell_of_raw(sidecars: list[Path], what: str) -> None:
    """A line on all sidecars of raw files that have the name of an image."""
    if sidecars:
        say(f"{len(sidecars)} sidecars of raw files of the same name, as {sidecars[0]}, {what}")


def tell_refused(refused: list[tuple[Path, str]]) -> None:
    """A line for each file that stays as it is."""
    for path, reason in refused:
        say(reason if reason.startswith(str(path)) else f"{path} {reason}")


def tell_read_only(paths: list[Path]) -> None:
    """A line on all files in places that cannot be written."""
    if paths:
        first = ", ".join(map(str, paths[:SHOWN]))
        more = " ..." if len(paths) > SHOWN else ""
        say(f"{len(paths)} sidecars are in places that cannot be written: {first}{more}; --to DIR"
            " writes a parallel tree")  # fmt: skip
