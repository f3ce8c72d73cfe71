"""What the command line shows: progress and messages on stderr, tables and JSON on stdout."""

import csv
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table

    from trmml.deploy.onnx_file import Exported
    from trmml.settings.sections import Settings
    from trmml.tagging.tags import TaggedImage

# A log file gets one line per so many seconds while one stage goes on.
LINE_SECONDS = 30.0
CSV_COLUMNS = ("image", "category", "probability", "threshold", "map", "error")


def say(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(printable(text), err=True)


def show(text: str) -> None:
    """A line of results for people, on stdout."""
    typer.echo(printable(text))


def printable(text: str) -> str:
    """The text with control characters as escapes: a file's name may hold what moves a cursor.

    Line ends stay. The escapes are those of Python.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def fail(text: str) -> NoReturn:
    """End the command with one line on stderr and exit code 1."""
    say("Error: " + " ".join(text.split()))
    raise typer.Exit(1)


# Progress -----------------------------------------------------------------------------------


class Lines:
    """Progress for a log file: a line when a stage ends, and now and then within a long one."""

    def __init__(self) -> None:
        self._what, self._first = "", 0
        self._started = self._written = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note that `done` of `total` are done."""
        now = time.monotonic()
        if what != self._what:
            if not (_is_epoch(what) and _is_epoch(self._what)):
                self._written = now
            self._what, self._first, self._started = what, done, now
        # An epoch ends with its record, which says more; those of the second training are many.
        ended = done == total and not _is_epoch(what)
        if ended or now - self._written > LINE_SECONDS:
            self.line(f"{what} {done}/{total}{self._pace(done, total, now)}")

    def _pace(self, done: int, total: int, now: float) -> str:
        """Speed and time left since the stage's first call; nothing at that call."""
        if done == self._first:
            return ""
        rate = (done - self._first) / max(now - self._started, 1e-9)
        left = f"  {(total - done) / rate:.0f} s left" if done < total else ""
        return f"  {rate:.0f} {_unit(self._what)}/s{left}"

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._written = time.monotonic()
        say(text)


class Bars:
    """Progress for a terminal: one bar per stage.

    Args:
        bars: started.
    """

    def __init__(self, bars: "RichProgress") -> None:
        self._bars, self._what = bars, ""
        self._task: TaskID | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note that `done` of `total` are done."""
        if what != self._what:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._what, self._task = what, self._bars.add_task(what, total=total, rate="")
        assert self._task is not None
        speed = self._bars.tasks[-1].speed
        rate = f"{speed:.0f} {_unit(what)}/s" if speed else ""
        self._bars.update(self._task, completed=done, total=total, rate=rate)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._bars.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _unit(what: str) -> str:
    if what == "bootstrap":
        return "cells"
    return "batches" if _is_epoch(what) else "images"


def _is_epoch(what: str) -> bool:
    """Whether a stage is an epoch, of either training."""
    return "epoch " in what


# Either is a `features.Progress`.
Show = Lines | Bars


@contextmanager
def shown_progress() -> Iterator[Show]:
    """A bar when stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        Left(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bars(bars)


# Messages of libraries ----------------------------------------------------------------------


class _OnStderr(logging.Handler):
    """Prints to what stderr is at the moment, which a progress bar or a test may replace."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextmanager
def quiet(*, verbose: bool) -> Iterator[None]:
    """Only trmml's own warnings are shown; with `verbose` its other messages and others' too."""
    root, own = logging.getLogger(), logging.getLogger("trmml")
    handler, level = _OnStderr(), own.level
    if verbose:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        own.setLevel(logging.INFO)
    else:
        handler.setFormatter(logging.Formatter("Warning: %(message)s"))
        handler.addFilter(logging.Filter("trmml"))
    # A handler on the root also keeps libraries from adding their own.
    root.addHandler(handler)
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.removeHandler(handler)
            own.setLevel(level)


@contextmanager
def silenced(name: str) -> Iterator[None]:
    """No warnings of one of our modules, where hundreds of the same would say nothing new."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# Results ------------------------------------------------------------------------------------


def print_json(tree: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(_json_text(tree, indent=1))


def print_line(tree: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    typer.echo(_json_text(tree))


def _json_text(tree: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON in which every character that is not printable is escaped, as JSON allows."""
    text = json.dumps(tree, indent=indent, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def print_table(table: "Table") -> None:
    """A table on stdout: as wide as the terminal, and never cut where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(table)


def comparison(methods: Mapping[str, Mapping[str, Any]]) -> "Table":
    """`results.json`'s methods, one per row, figures in percent."""
    from rich.table import Table

    table = Table()
    table.add_column("method")
    names = [name for name in next(iter(methods.values())) if name not in ("images", "categories")]
    for name in names:
        table.add_column(
            name.upper().replace("MAP", "mAP").replace("_TOP", " top-"), justify="right"
        )
    for method, figures in methods.items():
        cells = ["-" if figures[name] is None else f"{figures[name]:.1f}" for name in names]
        table.add_row(method, *cells)
    return table


def print_tags(tagged: "Iterator[TaggedImage]", style: str) -> None:
    """Print tagged images as they come, or a table at the end."""
    printers = {"csv": _csv_rows, "jsonl": _json_lines, "table": _tag_table}
    printers[style](tagged)


def _json_lines(tagged: "Iterator[TaggedImage]") -> None:
    for image in tagged:
        typer.echo(_json_text(image.to_dict()))


def _csv_rows(tagged: "Iterator[TaggedImage]") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    shown = _one_line if sys.stdout.isatty() else str  # a file gets names as they are
    for image in tagged:
        tree = image.to_dict()
        maps = tree.get("maps") or [""] * len(image.tags)
        for tag, region in zip(tree["tags"], maps, strict=True):
            writer.writerow(map(shown, [tree["image"], *tag.values(), region, ""]))
        if not image.tags:
            writer.writerow(map(shown, [tree["image"], "", "", "", "", image.error or ""]))
        sys.stdout.flush()


def _tag_table(tagged: "Iterator[TaggedImage]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "tags (probability in percent)")
    for image in tagged:
        words = [f"{tag.category} {100 * tag.probability:.0f}" for tag in image.tags]
        shown = ", ".join(words) or "-" if image.error is None else f"unreadable: {image.error}"
        # As text, so that brackets in a name are no markup; control characters escaped.
        table.add_row(*(Text(_one_line(cell)) for cell in (str(image.path), shown)))
    print_table(table)


def _one_line(cell: object) -> str:
    return printable(str(cell)).replace("\n", "\\n")


def export_lines(done: "Exported") -> list[str]:
    """What was written, how well it agrees with torch, and how fast it is."""
    names = {"all": "image", "head": "hidden_patches"}
    beside = f", weights in {done.external_data.name}" if done.external_data else ""
    rates = (f"{name} {rate:.1f}" for name, rate in done.images_per_second.items())
    return [
        f"{done.path}: {done.size_bytes / 1e6:.1f} MB{beside}, opset {done.opset}",
        f"takes {names[done.part]}; gives probabilities and region_maps"
        f" of {len(done.categories)} categories",
        f"checked on {done.checked_images} images: differs from torch by at most"
        f" {done.max_deviation:.1e}",
        f"images per second here: {', '.join(rates)}",
    ]


def settings_table(settings: "Settings") -> "Table":
    """Every setting with its value and its meaning."""
    from rich.table import Table
    from rich.text import Text

    table = Table("setting", "value", "meaning")
    for section in type(settings).model_fields:
        part = getattr(settings, section)
        for name, field in type(part).model_fields.items():
            value = getattr(part, name)
            shown = "off" if value is None else json.dumps(value, ensure_ascii=False)
            table.add_row(f"{section}.{name}", Text(shown), Text(field.description or ""))
    return table
