"""What all commands share: options taken anywhere, and errors that end in one line."""

import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from trmml.cli.output import fail, quiet, say
from trmml.errors import TrmmlError
from trmml.storage.atomic import FULL

ANYWHERE = ("--debug", "--verbose", "-v")


class Verbs(TyperGroup):
    """All commands; options of every verb are moved to the front, where the group reads them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what is left."""
        end = args.index("--") if "--" in args else len(args)
        early = [arg for arg in args[:end] if arg in ANYWHERE]
        late = [arg for arg in args[:end] if arg not in ANYWHERE]
        return super().parse_args(ctx, [*early, *late, *args[end:]])

    def invoke(self, ctx: Any) -> Any:
        """Run the verb, with libraries kept quiet."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file's name need not be valid UTF-8
                stream.reconfigure(errors="backslashreplace")
        with quiet(verbose=ctx.params["verbose"]):
            return super().invoke(ctx)


class Verb(TyperCommand):
    """A command whose errors end in one line and exit code 1, after Ctrl-C in 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            say("Interrupted.")
            raise typer.Exit(130) from None
        except Exception as error:
            if ctx.find_root().params.get("debug"):
                raise
            fail(one_line(error))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """What `kill`, a scheduler or a closed terminal sends ends the block as Ctrl-C does."""
    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # `nohup` has a command ignore the one; that stays.
    changed = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def one_line(error: Exception) -> str:
    """What is said of an error."""
    if isinstance(error, TrmmlError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return (
            f"{error.filename or 'standard output'}: {error.strerror}. Make room, or name another"
            " place, and run the command again (fit: with --resume)"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"unexpected {type(error).__name__}: {error}; --debug shows where it comes from"


def examples(*lines: str) -> str:
    """The end of a command's help; the first line keeps typer from joining the others."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"trmml {version('trmml')}")
        raise typer.Exit
    return wanted


def trmml(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show log messages; may stand anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version."),
    ] = False,
) -> None:
    """Recognise many labels in an image when the training labels are incomplete."""
