"""`trmml review`: ask people about open pairs, and learn from what they answer."""

import typer

from trmml.cli.app import Verb, examples
from trmml.cli.simulate import simulate

review = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask people about open labels.",
)


@review.callback()
def _group() -> None:
    """Keep `simulate` a verb of its own while it is the only one."""


review.command(
    cls=Verb,
    epilog=examples(
        "trmml review simulate --data corel5k data/corel5k --out runs/simulated",
        "trmml review simulate --data corel5k data/corel5k --out runs/simulated --asking both \\",
        "    --seconds 20000 --policies random,balanced,trmml",
    ),
)(simulate)
