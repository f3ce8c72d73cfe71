"""`trmml review simulate`: which questions are worth asking, on labels that are complete."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from trmml.cli import grid_options, options
from trmml.cli.benchmark import read_both, terminal
from trmml.cli.grid_options import seed_list
from trmml.cli.output import Show, print_json, print_table, shown_progress
from trmml.settings.choices import Policy, StartRule

if TYPE_CHECKING:
    from trmml.benchmark.data import BenchmarkData
    from trmml.benchmark.simulation import Finished
    from trmml.curation.simulate import Session

# In every table, so that what a policy gains can be read off.
ALWAYS: tuple[Policy, ...] = ("random", "uncertain")

Policies = Annotated[str, typer.Option(metavar="KEYS", help="Keys with commas between, or all.")]
AskingOption = Annotated[
    Literal["blocks", "images", "both"],
    typer.Option(help="Ask in blocks of one category, or image by image."),
]
StartOption = Annotated[
    StartRule,
    typer.Option(
        help="What is known at first: a share at random, or skewed to the"
        " frequent categories, or one present category an image."
    ),
]
StartKnown = Annotated[float, typer.Option(help="Share of the pairs that is known at first.")]
Budget = Annotated[float, typer.Option(min=1, help="Answers in all.")]
Seconds = Annotated[
    float | None, typer.Option(min=1, help="Seconds in all, instead of a number of answers.")
]
Rounds = Annotated[int, typer.Option(min=1, help="The head learns after each.")]
Flip = Annotated[float, typer.Option(help="Share of the answers that is wrong, below 1.")]


def simulate(
    out: grid_options.GridOut,
    data: options.Data = None,
    data_option: options.DataOption = None,
    encoder: options.Encoder = "bundled",
    image_size: options.ImageSize = None,
    policies: Policies = "all",
    asking: AskingOption = "blocks",
    start: StartOption = "share",
    start_known: StartKnown = 0.02,
    budget: Budget = 50_000,
    seconds: Seconds = None,
    rounds: Rounds = 10,
    flip: Flip = 0.0,
    seeds: grid_options.Seeds = "3",
    store: options.Store = None,
    on_bad_image: options.BadImage = "error",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Compare policies by a simulated annotator. Needs a data set with complete labels."""
    if data is None:
        raise typer.BadParameter("give --data NAME ROOT, a data set with complete labels")
    if not 0 < start_known <= 1 or not 0 <= flip < 1:
        raise typer.BadParameter("--start-known must be above 0 and at most 1, --flip below 1")

    from trmml.benchmark.data import encode_benchmark_data
    from trmml.benchmark.simulation import session_table
    from trmml.benchmark.simulation_plot import write_curves
    from trmml.curation.simulate import Session
    from trmml.encoders import load_encoder
    from trmml.features.extract import Encoding
    from trmml.training.fabric import pick_device

    first = Session("random", start=start, start_known=start_known, rounds=rounds, flip=flip)
    first = replace(first, budget=seconds or budget, unit="seconds" if seconds else "answers")
    sessions = [
        replace(first, policy=policy, asking=each, seed=seed)
        for seed in seed_list(seeds)
        for policy in _policies(policies)
        for each in (("blocks", "images") if asking == "both" else (asking,))
    ]
    title, train, test = read_both(data, options.named_values(data_option, "--data-option"))
    with shown_progress() as progress:
        encoded = encode_benchmark_data(
            title,
            train,
            test,
            load_encoder(encoder, image_size=image_size),
            device=pick_device(device),
            encoding=Encoding(store),
            encoder_spec=encoder,
            on_bad_image=on_bad_image,
            progress=progress,
        )
        finished = _run(encoded, sessions, out, progress)
    plots = write_curves(finished, title, out)
    if json:
        print_json({"out": str(out), "sessions": [asdict(each) for each in finished]})
        return
    print_table(terminal(session_table(finished, title)))
    typer.echo(f"plots:   {', '.join(map(str, plots))}")


def _run(
    data: "BenchmarkData", sessions: "list[Session]", out: Path, progress: Show
) -> "list[Finished]":
    from trmml.benchmark.simulation import run_sessions, simulated_data

    finished = []
    for each in run_sessions(simulated_data(data), sessions, out / "cells", data.same):
        finished.append(each)
        session, area = each.session, 100 * each.area
        progress("simulating", len(finished), len(sessions))
        progress.line(f"{session.policy}, {session.asking}, seed {session.seed}: area {area:.2f}")
    return finished


def _policies(text: str) -> list[Policy]:
    """Those that are named, and those that are always compared with.

    Raises:
        BadParameter: one does not exist.
    """
    known: tuple[Policy, ...] = get_args(Policy)
    if text == "all":
        return list(known)
    asked = [part.strip() for part in text.split(",")]
    wrong = [name for name in asked if name not in known]
    if wrong:
        raise typer.BadParameter(f"no policy is called {wrong[0]!r}; there are {', '.join(known)}")
    return [name for name in known if name in asked or name in ALWAYS]
