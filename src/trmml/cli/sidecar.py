"""`trmml sidecar`: keywords beside images, for photo software, and back; parse, call, print."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trmml.cli import options
from trmml.cli.app import Verb, examples
from trmml.cli.output import print_json, say, show
from trmml.cli.reading import named_paths
from trmml.cli.sidecar_report import (
    DEFAULT_LEDGER,
    SHOWN,
    LedgerOption,
    known_ledger,
    tell_of_raw,
    tell_read_only,
    tell_refused,
    tell_shared,
)
from trmml.cli.sidecar_write import UnderOption, write

sidecar = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Write keywords for photo software, and read them.",
)

sidecar.command(
    cls=Verb,
    epilog=examples(
        "trmml sidecar write runs/photos photos --dry-run",
        "trmml sidecar write runs/photos photos --under AI --provenance",
        "trmml sidecar write photos --from completed.csv --for digikam,darktable",
        "trmml sidecar write runs/photos photos --from labels.csv --from answers.sqlite \\",
        "    --accept precision=0.9",
    ),
)(write)


@sidecar.command(
    cls=Verb,
    epilog=examples(
        "trmml sidecar read photos --out tags.csv --embedded",
        "trmml sidecar read photos --out tags.csv --under AI --format wide",
    ),
)
def read(
    images: options.ImagePaths,
    out: Annotated[
        Path,
        typer.Option(help="New table.", show_default=False, callback=options.writable_file),
    ],
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Read the images' own XMP and IPTC, too.")
    ] = False,
    ours: Annotated[
        Literal["leave-out", "include"],
        typer.Option(help="What trmml wrote, by ledger, provenance or --under."),
    ] = "leave-out",
    under: UnderOption = None,
    ledger: LedgerOption = DEFAULT_LEDGER,
    style: Annotated[
        Literal["long", "wide"],
        typer.Option("--format", help="image, present, absent; or a column a keyword."),
    ] = "long",
    null: options.Null = False,
    json: options.Json = False,
) -> None:
    """Read keywords into a table. What people tagged is present, all else is unknown."""
    from trmml.exchange.keyword_table import read_keywords, write_keywords
    from trmml.exchange.naming import common_folder, found_images, raw_sidecars
    from trmml.storage.atomic import refuse_old

    refuse_old(out)
    found = found_images(named_paths(images, null))
    asked = ours == "leave-out" or ledger != DEFAULT_LEDGER
    words = read_keywords(
        list(found), embedded=embedded, under=under, ours=ours == "include",
        ledger=known_ledger(ledger) if asked else None,
    )  # fmt: skip
    root = common_folder(found.values())
    count = write_keywords(words, out, root, style)
    tagged = sum(bool(each) for each in words.words.values())
    if json:
        print_json({
            "out": str(out), "images": len(found), "tagged": tagged, "categories": count,
            "left_out": words.ours, "unlisted": [str(path) for path in words.unlisted],
            "refused": {str(path): why for path, why in words.refused},
        })  # fmt: skip
    else:
        show(f"{out}: {tagged} of {len(found)} images have keywords, {count} different ones;"
             f" {words.ours} words of trmml left out; names begin in {root}")  # fmt: skip
    tell_shared(words.shared)
    tell_of_raw(raw_sidecars(found), "count for these images, too")
    tell_refused(words.refused)
    if words.unlisted and ours == "leave-out":
        say(f"{len(words.unlisted)} sidecars that trmml made, as {words.unlisted[0]}, are in no"
            " ledger that was read, so their words count as people's; name the one that `write`"
            " wrote: --ledger FILE")  # fmt: skip
    if words.refused:
        raise typer.Exit(1)


@sidecar.command(
    cls=Verb,
    epilog=examples(
        "trmml sidecar undo --ledger sidecars.jsonl",
        "trmml sidecar undo --ledger sidecars.jsonl photos/2019",
    ),
)
def undo(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES]...",
            help="Only sidecars of these images, folders and patterns; all without any.",
        ),
    ] = None,
    ledger: LedgerOption = DEFAULT_LEDGER,
    null: options.Null = False,
    json: options.Json = False,
) -> None:
    """Take added words out of sidecars. Untouched ones get their old bytes back."""
    from trmml.exchange.undo import undo as take_back

    done = take_back(ledger, named_paths(images or (), null) or None)
    restored = list(dict.fromkeys(path for path in done.written if path not in done.removed))
    if json:
        print_json({
            "restored": list(map(str, restored)), "removed": list(map(str, done.removed)),
            "moved": {str(path): what for path, what in done.moved},
            "doubtful": list(map(str, done.doubtful)), "nothing": done.nothing,
            "refused": {str(path): why for path, why in done.refused},
            "read_only": list(map(str, done.read_only)),
        })  # fmt: skip
    else:
        show(f"{len(restored)} sidecars without what was added, {len(done.removed)} that held"
             " nothing else removed")  # fmt: skip
    if done.nothing:
        first = ", ".join(done.nothing[:SHOWN])
        say(f"{ledger} holds nothing, or nothing more, of {len(done.nothing)} of the names:"
            f" {first}{' ...' if len(done.nothing) > SHOWN else ''}")  # fmt: skip
    for path, what in done.moved:
        say(f"{path}: edited since; no longer there: {what}")
    for path in done.doubtful:
        say(f"{path}: nobody knows whether it was written, and it was edited since; left alone")
    tell_refused(done.refused)
    tell_read_only(done.read_only)
    if done.refused or done.read_only or done.doubtful:
        raise typer.Exit(1)
