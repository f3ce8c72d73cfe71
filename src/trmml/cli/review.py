"""`trmml review`: ask people about pairs, and learn from what they answer."""

import typer

from trmml.cli.answers import apply, export, import_, learn, queue
from trmml.cli.app import Verb, examples
from trmml.cli.ask import ask
from trmml.cli.simulate import simulate

review = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask people about labels, and learn from their answers.",
)
_TABLE = "--images photos --labels labels.csv --answers answers.sqlite"

review.command(
    cls=Verb,
    epilog=examples(
        "trmml review queue runs/photos --images photos --labels labels.csv",
        f"trmml review queue runs/photos {_TABLE} --kind suspects --jsonl",
    ),
)(queue)
review.command(
    cls=Verb,
    epilog=examples(
        f"trmml review ask runs/photos {_TABLE}",
        f"trmml review ask runs/photos {_TABLE} --kind suspects --who ann",
    ),
)(ask)
review.command(
    cls=Verb,
    epilog=examples(
        "trmml review apply --labels labels.csv --answers answers.sqlite --out labels-2.csv"
    ),
)(apply)
review.command(
    cls=Verb, epilog=examples(f"trmml review learn runs/photos {_TABLE} --out runs/photos-2")
)(learn)
review.command(
    cls=Verb, epilog=examples("trmml review export --answers answers.sqlite --out answers.jsonl")
)(export)
review.command(
    name="import",
    cls=Verb,
    epilog=examples("trmml review import ann.jsonl bob.jsonl --answers answers.sqlite"),
)(import_)
review.command(
    cls=Verb,
    epilog=examples(
        "trmml review simulate --data corel5k data/corel5k --out runs/simulated",
        "trmml review simulate --data corel5k data/corel5k --out runs/simulated --asking both \\",
        "    --seconds 20000 --policies random,balanced,trmml",
    ),
)(simulate)
