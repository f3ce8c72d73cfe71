"""`trmml hub push | pull | card`: parse, call, print."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from trmml.cli import options
from trmml.cli.app import Verb, examples
from trmml.cli.output import print_json, show

hub = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Share runs on the Hugging Face Hub. Whatever takes a run takes hf:NAME as well.",
)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="As owner/name on the Hub.", show_default=False)
]
License = Annotated[
    str, typer.Option("--license", help="Of the run, as apache-2.0; never guessed.")
]
Public = Annotated[
    bool, typer.Option("--public/--private", help="Whether all may see it, or you alone.")
]
SharedEncoder = Annotated[
    str | None,
    typer.Option("--encoder", help="How others load the encoder, as hf-hub:owner/model."),
]
DatasetName = Annotated[str, typer.Option("--dataset", help="What the test images are called.")]
WithReport = Annotated[
    bool, typer.Option("--report", help="Also the report, which shows training images.")
]
WithLabels = Annotated[bool, typer.Option("--with-labels", help="Also the labels that were known.")]
WithOnnx = Annotated[bool, typer.Option("--onnx", help="Also an ONNX file, made anew.")]
Revision = Annotated[str | None, typer.Option(help="Branch to push to.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be sent, send nothing.")]
PullOut = Annotated[
    Path,
    typer.Option("--out", help="New folder.", show_default=False, callback=options.writable_folder),
]


@hub.command(
    cls=Verb,
    epilog=examples(
        "trmml hub push runs/photos anna/photos --license cc-by-4.0 --dry-run",
        "trmml hub push runs/photos anna/photos --license cc-by-4.0 --public",
    ),
)
def push(
    run: options.Run,
    name: Name,
    license_id: License,
    public: Public = False,
    encoder: SharedEncoder = None,
    dataset: DatasetName = "",
    report: WithReport = False,
    labels: WithLabels = False,
    onnx: WithOnnx = False,
    revision: Revision = None,
    dry_run: DryRun = False,
    json: options.Json = False,
) -> None:
    """Push a run with its card. Private by default; what identifies people is refused."""
    from trmml.hub.repository import push as push_run

    with TemporaryDirectory() as folder:
        made = None
        if onnx:
            from trmml.deploy.onnx_file import export

            made = export(run, Path(folder) / "model.onnx", encoder=encoder).path
        pushed = push_run(
            run,
            name,
            license_id=license_id,
            public=public,
            encoder=encoder,
            report=report,
            labels=labels,
            onnx=made,
            dataset=dataset,
            revision=revision,
            dry_run=dry_run,
        )
    if json:
        print_json({"name": name, "files": pushed.files, "commit": pushed.commit})
        return
    for file, size in pushed.files.items():
        show(f"{size:>12}  {file}")
    show("nothing was sent" if dry_run else f"pushed to {name}, commit {pushed.commit}")


@hub.command(
    cls=Verb,
    epilog=examples(
        "trmml hub pull anna/photos --out runs/anna",
        "trmml tag hf:anna/photos holiday/*.jpg",
    ),
)
def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME[@REV]", help="As owner/name.", show_default=False)
    ],
    out: PullOut,
    json: options.Json = False,
) -> None:
    """Fetch a run into a new folder. Nothing of it is run; its commit is written down."""
    from trmml.hub.repository import pull as pull_run

    run = pull_run(name, out)
    if json:
        print_json({"run": str(run)})
    else:
        show(str(run))


@hub.command(cls=Verb, epilog=examples("trmml hub card runs/photos anna/photos --license mit"))
def card(
    run: options.Run,
    name: Name,
    license_id: License,
    encoder: SharedEncoder = None,
    dataset: DatasetName = "",
) -> None:
    """Print the card that `push` would write."""
    from trmml.hub.card import write_card

    show(write_card(run, name, license_id=license_id, encoder=encoder, dataset=dataset))
