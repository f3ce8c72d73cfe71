"""What became of sidecars, told to people and programs, and the ledger that knows it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli.output import print_json, say, show

if TYPE_CHECKING:
    from trmml.exchange.sidecars import Report

DEFAULT_LEDGER = Path("sidecars.jsonl")
SHOWN = 5  # files that a line of the summary names; --json has all

LedgerOption = Annotated[
    Path,
    typer.Option("--ledger", metavar="FILE", help="Ledger of all that was added, for `undo`."),
]


def tell(
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
