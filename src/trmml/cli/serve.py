"""`trmml serve`: a run in the browser."""

import contextlib
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trmml.cli import options
from trmml.cli.output import say, show, shown_progress
from trmml.cli.reading import TableOptions, read_images, read_names
from trmml.cli.runs import refuse_cached

if TYPE_CHECKING:
    from trmml.datasets.base import Dataset
    from trmml.features.base import Progress
    from trmml.server.opening import Site

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def serve(
    run: options.Run,
    images: options.Images = None,
    labels: options.Labels = None,
    index: Annotated[Path | None, typer.Option(help="Folder that `trmml index` wrote.")] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Journal of answers. [default: RUN/answers.sqlite]"),
    ] = None,
    who: Annotated[str, typer.Option(help="Your name, where several people answer.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8765,
    token: Annotated[
        str,
        typer.Option(metavar="auto|FILE|none", help="What opens the pages; a file that holds it."),
    ] = "auto",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name of this machine; may be repeated."),
    ] = None,
    max_upload: Annotated[str, typer.Option(help="Bytes of a request, as 50M or 1G.")] = "50M",
    read_only: Annotated[bool, typer.Option("--read-only", help="Keep no answers.")] = False,
    label_studio: Annotated[
        bool, typer.Option("--label-studio", help="Also be an ML backend of Label Studio.")
    ] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    categories: options.Categories = None,
    blank: options.BlankOption = None,
    minus_one: options.MinusOne = None,
    separator: options.Separator = None,
    encoder: options.RunEncoder = None,
    trust: options.Trust = False,
    device: options.Device = "cpu",
) -> None:
    """Tag, review and search in the browser. Listens on this machine alone."""
    try:
        from trmml.server.opening import Opening
        from trmml.server.serve import check_index, listen, run_server, token_for
    except ImportError as error:
        from trmml.errors import MissingExtraError

        raise MissingExtraError("`trmml serve`", "serve") from error
    from trmml.server.guard import LOOPBACK, Gate

    away = host not in ("127.0.0.1", "localhost", "::1")
    if away and token == "none":
        raise typer.BadParameter(f"--host {host} is open to other machines, so it needs a token")
    if answers is None and not read_only:
        refuse_cached(run, "answers", "give --answers FILE, or --read-only")
    images, labels = _collection(run, images, labels)
    if not (run / "model.json").is_file():
        from trmml.training.run_folder import load_card

        load_card(run)  # says what is missing
    check_index(index, run)
    key = token_for(token, run)
    table = TableOptions(read_names(categories), blank, minus_one, separator)
    with listen(host, port) as listening:
        port, name = listening.getsockname()[1], _address(host)
        hosts = frozenset(each.lower() for each in (*LOOPBACK, name, *(allow_host or ())))
        gate = Gate(hosts, key, port, most_bytes=_bytes(max_upload))

        def load(tell: "Progress") -> "Site":
            from trmml.server.site import Wish, open_site  # torch takes seconds to import

            wish = Wish(
                run, _data(run, images, labels, table), index, answers, who, read_only,
                label_studio, encoder, trust, device, labels,
                () if labels is None else _said(categories, blank, minus_one, separator),
            )  # fmt: skip
            with shown_progress() as shown:
                return open_site(wish, gate, _both(shown, tell))

        address = f"http://{name}:{port}/" + (f"#t={key}" if key else "")
        show(address)
        if open_:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):  # how it is ended
            run_server(Opening(gate, load), listening)
    say("Ended. All that was answered is on the disk.")


def _address(host: str) -> str:
    """How an address of the web names a host; where any is listened at, this machine."""
    any_host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return any_host.get(host) or (f"[{host}]" if ":" in host else host)


def _both(first: "Progress", second: "Progress") -> "Progress":
    """Progress that is told to two."""

    def tell(what: str, done: int, total: int) -> None:
        first(what, done, total)
        second(what, done, total)

    return tell


def _said(
    categories: Path | None, blank: str | None, minus_one: str | None, separator: str | None
) -> tuple[str, ...]:
    """The options that say what a table's cells mean, as they were given."""
    given = {"categories": categories, "blank": blank, "minus-one": minus_one}
    given["separator"] = separator
    return tuple(f"--{name}={value}" for name, value in given.items() if value is not None)


def _collection(
    run: Path, images: Path | None, labels: Path | None
) -> tuple[Path | None, Path | None]:
    """Folder and table under review: as the options say, or the demo's own."""
    if labels is not None and images is None:
        raise typer.BadParameter("--labels needs --images, the folder of the images")
    if images is not None and not images.is_dir():
        raise typer.BadParameter(f"--images {images} is no folder; name the folder of the images")
    if labels is not None and not labels.exists():
        raise typer.BadParameter(f"--labels {labels} does not exist; name the table")
    drawn = run / "data" / "train"
    if images is None and (run / "demo.json").is_file():
        return drawn, drawn / "labels_partial.csv"
    return images, labels


def _data(
    run: Path, images: Path | None, labels: Path | None, table: TableOptions
) -> "Dataset | None":
    """What is known of the images under review."""
    if images is None:
        return None
    if labels is not None:
        return read_images(images, labels, table)
    from trmml.server.site import unlabelled

    return unlabelled(images, run)


def _bytes(text: str) -> int:
    """The number of bytes that 50M stands for."""
    digits = text.rstrip("kKmMgG")
    if not digits.isdecimal() or text[len(digits) :].lower() not in UNITS:
        raise typer.BadParameter(f"--max-upload takes bytes as 50M or 1G, got {text!r}")
    return int(digits) * UNITS[text[len(digits) :].lower()]
