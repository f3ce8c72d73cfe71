"""`trmml batch manifest | tag | status`: parse, call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trmml.cli import options
from trmml.cli.app import Verb, examples
from trmml.cli.output import fail, print_json, say, show, shown_progress
from trmml.settings.choices import BatchFormat, Engine

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
        help="For fsspec, as endpoint_url; may be repeated. No credentials: those are taken from"
        " the environment.",
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
    typer.Option("--out", help="Parquet file to write.", callback=options.writable),
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
Workers = Annotated[int, typer.Option(min=1, help="Processes of Ray, each with the run.")]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Images that are scored together.")]
PartSize = Annotated[int, typer.Option("--part", min=1, help="Images in a file of the output.")]
RetryErrors = Annotated[
    bool,
    typer.Option("--retry-errors", help="Also do parts again in which an image was not read."),
]
Files = Annotated[BatchFormat, typer.Option("--format", help="Parquet files, or one Lance table.")]


def _storage(given: list[str] | None) -> "Storage":
    from trmml.scale.objects import Storage

    return Storage(options.named_values(given, "--storage-option"))


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
    json: options.Json = False,
) -> None:
    """List the images to tag. One Parquet file with id, uri, size and etag."""
    from trmml.scale.manifest import write_manifest

    with shown_progress() as progress:
        rows = write_manifest(sources, out, storage=_storage(storage_option), progress=progress)
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
    workers: Workers = 1,
    device: options.Device = "auto",
    precision: options.TagPrecision = "fp32",
    batch_size: BatchSize = 64,
    part: PartSize = 10_000,
    files: Files = "parquet",
    retry_errors: RetryErrors = False,
    trust: options.Trust = False,
    storage_option: StorageOption = None,
    json: options.Json = False,
) -> None:
    """Tag the images of a manifest. Goes on where it was stopped; a bad image is a row."""
    from trmml.scale.run import tag_manifest

    with shown_progress() as progress:
        done = tag_manifest(
            run,
            rows,
            out,
            what=[name.strip() for name in what.split(",") if name.strip()],
            engine=engine,
            address=address,
            workers=workers,
            device=device,
            precision=precision,
            batch=batch_size,
            part=part,
            files=files,
            retry_errors=retry_errors,
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
