"""`trmml sidecar write`: tags, tables and answers into XMP sidecars; parse, call, print."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trmml.cli import options
from trmml.cli.output import say, show, shown_progress
from trmml.cli.reading import named_paths, read_names
from trmml.cli.runs import fetched
from trmml.cli.sidecar_report import (
    DEFAULT_LEDGER,
    LedgerOption,
    tell,
    tell_of_raw,
    tell_shared,
)

if TYPE_CHECKING:
    from trmml.exchange.readers import Program
    from trmml.exchange.sidecars import Job, Manner, Report
    from trmml.exchange.sources import Worded

PROGRAMS: "tuple[Program, ...]" = (
    *("digikam", "darktable", "immich", "photoprism"),
    "lightroom",
)
# Options of runs, with what each says where it is not given.
_OF_RUNS = {
    "encoder": None, "trust": False, "device": "auto", "on_bad_image": "skip", "precision": "auto"
}  # fmt: skip

UnderOption = Annotated[
    str | None,
    typer.Option(
        "--under", metavar="NAME", help="Root in the tree of keywords for trmml's words, as AI."
    ),
]


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
    if csv is not None:
        if "lightroom" not in programs:
            raise typer.BadParameter("--csv goes with --for lightroom")
        refuse_old(csv)
    tables = {
        "blank": blank, "minus_one": minus_one, "separator": separator,
        "categories": read_names(categories),
    }  # fmt: skip
    how = {
        "encoder": encoder, "trust": trust, "device": device, "on_bad_image": on_bad_image,
        "precision": precision,
    }  # fmt: skip
    _refuse_idle(run, from_ or [], accept, tables, how)
    found = found_images(named)
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
    tell(report, ledger, exiftool, json=json, diffs=diffs if dry_run else None)


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


def _refuse_idle(
    run: Path | None, sources: list[Path], accept: str, tables: dict[str, Any], how: dict[str, Any]
) -> None:
    """Refuse options that would do nothing."""
    from trmml.exchange.sources import is_journal

    has_table = not all(map(is_journal, sources))
    if run is None and accept != "threshold":
        raise typer.BadParameter("--accept goes with a run; a table says itself what is present")
    for name, usual in _OF_RUNS.items():
        if how[name] == usual:
            continue
        option = f"--{name.replace('_', '-')}"
        if run is None:
            raise typer.BadParameter(f"{option} goes with a run; leave it out")
        if name == "precision" and has_table and accept != "threshold":
            raise typer.BadParameter(
                f"{option} goes with tags; --accept {accept} completes a table"
            )
    for name, value in tables.items():
        if value is not None and not has_table:
            raise typer.BadParameter(f"--{name.replace('_', '-')} explains a table: --from TABLE")


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
