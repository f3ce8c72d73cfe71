"""The argument that names a run: its folder, or hf:NAME on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from trmml.cli.output import fail


def local_run(run: Path | None) -> Path | None:
    """The folder of a run; one of the Hub, as hf:NAME, is fetched into the cache."""
    if run is None or not str(run).startswith("hf:"):
        return run
    from trmml.errors import TrmmlError
    from trmml.hub.repository import pull  # torch takes seconds to import

    try:
        return pull(str(run))
    except TrmmlError as error:
        fail(str(error))


Run = Annotated[
    Path,
    typer.Argument(
        help="Folder of a finished run, or hf:NAME on the Hub.",
        show_default=False,
        callback=local_run,
    ),
]
