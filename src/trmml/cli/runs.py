"""The argument that names a run: its folder, or hf:NAME on the Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trmml.cli.app import one_line
from trmml.cli.output import fail


def local_run(context: Any, run: Path | None) -> Path | None:
    """The folder of a run; one of the Hub, as hf:NAME, is fetched into the cache."""
    try:
        return None if run is None else fetched(run)
    except Exception as error:  # a command's own errors are told by `Verb`; this comes before it
        if context.find_root().params.get("debug"):
            raise
        fail(one_line(error))


def fetched(run: Path) -> Path:
    """A path as it is; the folder in the cache where it is hf:NAME."""
    if not str(run).startswith("hf:"):
        return run
    from trmml.hub.repository import pull  # torch takes seconds to import

    return pull(str(run))


def refuse_cached(
    run: Path, what: str, instead: str = "pull it into a folder of yours: trmml hub pull"
) -> None:
    """Refuse to write into a run that stands in the cache for hf:NAME.

    It is a folder of one commit: the next one would not have what was written, and whoever clears
    the cache would delete it.

    Args:
        run: its folder.
        what: would be written.
        instead: what to do.

    Raises:
        BadParameter: it is in the cache.
    """
    from trmml.storage.cache import cache_folder

    if run.absolute().is_relative_to((cache_folder() / "hub").absolute()):
        raise typer.BadParameter(
            f"{what} would be kept in the cache, beside one commit of the run on the Hub, and lost"
            f" with it; {instead}"
        )


def refuse_tested(run: Path) -> None:
    """Refuse to write a report over one that has figures of test images.

    Raises:
        BadParameter: there is such a report.
    """
    from trmml.reporting.report import has_test_figures

    if has_test_figures(run):
        raise typer.BadParameter(
            f"{run}/report.html has the figures of test images, which this command has not; make it"
            f" anew with: trmml evaluate {run} --images DIR --labels FILE --report; or move it away"
        )


Run = Annotated[
    Path,
    typer.Argument(
        help="Folder of a finished run, or hf:NAME on the Hub.",
        show_default=False,
        callback=local_run,
    ),
]
