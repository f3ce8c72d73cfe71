"""`trmml batch manifest | tag | status`: parse, call, print."""

from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trmml.cli import options
from trmml.cli.app import Verb, examples
from trmml.cli.output import fail, print_json, say, show, shown_progress
from trmml.cli.reading import names_on_stdin
from trmml.settings.choices import BatchFormat, BatchPrecision, Engine

if TYPE_CHECKING:
    from trmml.scale.objects import Storage

batch = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Tag more images than one sitting holds. In parts, from folders or object storage.",
)
StorageOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="For fsspec, as endpoint_url; may be repeated. true, false and numbers are what they"
        " say, unless in double quotes. No credentials: those are taken from the environment.",
    ),
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders, files, URLs as s3://bucket/prefix, lists in .txt files; - reads a list.",
        show_default=False,
    ),
]
ManifestOut = Annotated[
    Path,
    typer.Option("--out", help="Parquet file to write.", callback=options.writable_file),
]
Manifest = Annotated[
    Path,
    typer.Argument(
        metavar="MANIFEST", help="File that `trmml batch manifest` wrote.", show_default=False
    ),
]
JobFolder = Annotated[
    Path,
    typer.Argument(
        metavar="OUT", help="Folder of the job; the same one goes on.", show_default=False
    ),
]
What = Annotated[
    str, typer.Option(help="Of tags, probabilities, features and maps, with commas between.")
]
EngineOption = Annotated[
    Engine, typer.Option(help="This process, or Ray on this machine or a cluster.")
]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; by default Ray starts here.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of Ray, each with the run. [default: 1]")
]
JobPrecision = Annotated[
    BatchPrecision, typer.Option("--precision", help="Arithmetic of the encoder.")
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Images that are scored together.")]
PartSize = Annotated[int, typer.Option("--part", min=1, help="Images in a file of the output.")]
RetryErrors = Annotated[
    bool,
    typer.Option("--retry-errors", help="Also do parts again in which an image was not read."),
]
Files = Annotated[BatchFormat, typer.Option("--format", help="Parquet files, or one Lance table.")]


def _storage(given: list[str] | None) -> "Storage":
    from trmml.scale.objects import Storage

    named = options.named_values(given, "--storage-option")
    return Storage({name: _typed(value) for name, value in named.items()})


def _typed(value: str) -> Any:
    """What an option says: true, false, a number, a text in quotes, else the text as it is."""
    try:
        said = loads(value)
    except ValueError:
        return value
    return said if isinstance(said, bool | int | float | str) else value


@batch.command(
    cls=Verb,
    epilog=examples(
        "trmml batch manifest photos --out photos.parquet",
        "trmml batch manifest s3://museum/scans --out scans.parquet \\",
        "    --storage-option endpoint_url=https://storage.example.org",
    ),
)
def manifest(
    sources: Sources,
    out: ManifestOut,
    storage_option: StorageOption = None,
    null: options.Null = False,
    json: options.Json = False,
) -> None:
    """List the images to tag. One Parquet file with id, uri, size and etag."""
    from trmml.scale.manifest import write_manifest

    if sources.count("-") > 1:
        raise typer.BadParameter("- is given twice, and stdin holds one list; give it once")
    names = names_on_stdin(null) if "-" in sources else ()
    with shown_progress() as progress:
        rows = write_manifest(
            sources, out, names=names, storage=_storage(storage_option), progress=progress
        )
    if json:
        print_json({"manifest": str(out), "rows": rows})
    else:
        show(f"{rows} images in {out}")


@batch.command(
    cls=Verb,
    epilog=examples(
        "trmml batch tag runs/photos photos.parquet tagged",
        "trmml batch tag runs/photos photos.parquet tagged --what tags,features --device cuda",
        "trmml batch tag runs/photos scans.parquet tagged --engine ray --workers 8",
    ),
)
def tag(
    run: options.Run,
    rows: Manifest,
    out: JobFolder,
    what: What = "tags,probabilities",
    engine: EngineOption = "local",
    address: Address = None,
    workers: Workers = None,
    encoder: options.RunEncoder = None,
    device: options.Device = "auto",
    precision: JobPrecision = "fp32",
    batch_size: BatchSize = 64,
    part: PartSize = 10_000,
    files: Files = "parquet",
    retry_errors: RetryErrors = False,
    trust: options.Trust = False,
    storage_option: StorageOption = None,
    json: options.Json = False,
) -> None:
    """Tag the images of a manifest. Goes on where it was stopped; a bad image is a row."""
    if engine != "ray" and (workers is not None or address is not None):
        raise typer.BadParameter("--workers and --address are of Ray: say --engine ray as well")
    from trmml.scale.run import tag_manifest

    with shown_progress() as progress:
        done = tag_manifest(
            run,
            rows,
            out,
            what=[name.strip() for name in what.split(",") if name.strip()],
            engine=engine,
            address=address,
            workers=workers or 1,
            device=device,
            precision=precision,
            batch=batch_size,
            part=part,
            files=files,
            retry_errors=retry_errors,
            encoder=encoder,
            trust=trust,
            storage=_storage(storage_option),
            progress=progress,
        )
    _print(done.to_dict(), json)
    if done.failed or done.done < done.rows:
        fail(
            f"{done.failed} of {done.parts} parts failed twice, see {out / 'failed.jsonl'}; run the"
            " same command again for what is missing"
        )


@batch.command(cls=Verb, epilog=examples("trmml batch status tagged"))
def status(out: JobFolder, json: options.Json = False) -> None:
    """Show how far a job is."""
    from trmml.scale.status import status as status_of

    _print(status_of(out).to_dict(), json)


def _print(tree: dict[str, Any], json: bool) -> None:
    if json:
        print_json(tree)
        return
    show(f"{tree['done']} of {tree['rows']} images, {tree['parts_done']} of {tree['parts']} parts")
    if tree["errors"]:
        say(f"{tree['errors']} images cannot be read; their rows say why")
    if tree["failed"]:
        say(f"{tree['failed']} parts failed twice in the last call")
