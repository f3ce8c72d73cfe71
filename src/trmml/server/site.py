"""All parts of a server, put together for one run and one collection."""

import logging
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from fastapi import FastAPI

from trmml.curation.answers import Answers
from trmml.curation.collection import read_collection
from trmml.curation.queue import Queue
from trmml.datasets.base import Dataset
from trmml.deploy.kept import load_scorer
from trmml.errors import ConfigError
from trmml.features.base import Progress
from trmml.image_search import find_images
from trmml.labels.matrix import LabelMatrix
from trmml.search.encoder import EncoderEmbedder
from trmml.search.index import Index
from trmml.server.batching import Batcher
from trmml.server.finding import Searcher, search_routes
from trmml.server.guard import Gate, Guard
from trmml.server.label_studio import label_studio_routes
from trmml.server.library import Library
from trmml.server.opening import Site, page_routes
from trmml.server.pages import Meter, image_routes, run_routes, session_routes
from trmml.server.problems import add_handlers
from trmml.server.review import Desk, review_routes
from trmml.server.tagging import Explainer, tag_routes
from trmml.server.uploads import Intake
from trmml.storage.provenance import versions
from trmml.training.run_folder import load_card

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """What a server is to have.

    Attributes:
        run: folder of a finished run.
        data: the collection under review, with what is known of it.
        index: folder of an index to search.
        answers: journal of the review.
        who: name of the person who answers.
        read_only: whether answers are refused.
        label_studio: whether Label Studio may ask for predictions.
        encoder: see `Tagger.load`.
        trust: see `Tagger.load`.
        device: see `Tagger.load`.
        labels: table that the data were read from, for the commands that the pages name.
        table: options that said what its cells mean, as words of a command line; for the same.
    """

    run: Path
    data: Dataset | None = None
    index: Path | None = None
    answers: Path | None = None
    who: str = ""
    read_only: bool = False
    label_studio: bool = False
    encoder: str | None = None
    trust: bool = False
    device: str = "cpu"
    labels: Path | None = None
    table: tuple[str, ...] = ()


def open_site(wish: Wish, gate: Gate, progress: Progress | None = None) -> Site:
    """The app behind its gate, with everything loaded.

    Args:
        wish: what it is to have.
        gate: who may ask.
        progress: called with (what, done, total) while images are encoded.

    Raises:
        TrmmlError: a part cannot be opened.
    """
    card = load_card(wish.run)
    load = partial(
        load_scorer, wish.run, encoder=wish.encoder, trust=wish.trust, device=wish.device
    )
    index = None if wish.index is None else _index(wish)
    roots = [
        *([] if wish.data is None else [wish.data.root]),
        *([] if index is None else [index.root]),
    ]
    library = Library(roots)
    desk = None if wish.data is None else _desk(wish, wish.data, library, progress)
    batcher = Batcher(load())
    explainer = Explainer(partial(load, features=True), desk)
    meter = Meter(lambda: batcher.waiting)
    app = FastAPI(
        title="trmml", version=versions()["trmml"], docs_url=None, redoc_url=None,
        openapi_url="/api/v1/openapi.json", routes=page_routes(),
    )  # fmt: skip
    add_handlers(app)
    status = {
        "trmml": versions()["trmml"], "run": wish.run.resolve().name, "who": wish.who,
        "categories": list(card.category_names), "review": desk is not None,
        "images": 0 if wish.data is None else len(wish.data), "read_only": wish.read_only,
        "journal": "" if desk is None else desk.journal,
        "search": [] if index is None else index.card.category_names,
        "texts": bool(card.encoder.token_size), **_commands(wish),
    }  # fmt: skip
    for router in (  # looked through in this order, so what programs ask for most is first
        tag_routes(batcher, library, explainer, Intake(gate.most_bytes)),
        session_routes(gate), image_routes(library), review_routes(desk),
        run_routes(wish.run, status, meter),
        search_routes(None if index is None else Searcher(index, library)),
    ):  # fmt: skip
        app.include_router(router)
    if wish.label_studio:
        if desk is None:
            raise ConfigError("--label-studio needs --images, the collection that it annotates")
        app.include_router(label_studio_routes(desk, batcher))
    return Site(Guard(app, gate, meter.count), batcher.close)


def unlabelled(folder: Path, run: Path) -> Dataset:
    """The images of a folder, nothing of them known.

    Args:
        folder: searched to the bottom.
        run: whose categories they may have.
    """
    names = [path.relative_to(folder).as_posix() for path in find_images([folder])]
    categories = load_card(run).category_names
    labels, known = torch.zeros(2, len(names), len(categories), dtype=torch.bool)
    return Dataset(folder, tuple(names), categories, LabelMatrix(labels, known), (0,) * len(names))


def _commands(wish: Wish) -> dict[str, str]:
    """The commands that make an index, and a table and a better run of the answers.

    They take what this server was told, or they would read other labels than it shows. Where it was
    told of no table, the first makes one that the second reads.
    """
    images = "DIR" if wish.data is None else str(wish.data.root)
    run, name = str(wish.run), wish.run.resolve().name
    journal, made = str(wish.answers or wish.run / "answers.sqlite"), "reviewed.csv"
    loading = [*(["--encoder", wish.encoder] if wish.encoder else []), *["--trust"] * wish.trust]
    # The page takes the name of the index from its end.
    index = ["trmml", "index", images, "--run", run, *loading, "--out", f"{name}.index"]
    told = ["--images", images, "--labels", str(wish.labels or made), *wish.table]
    told += ["--answers", journal, "--out"]
    apply = ["trmml", "review", "apply", *told, made]
    if wish.labels is None:
        apply = ["trmml", "data", "export", "wide", journal, made, "--images", images]
    learn = ["trmml", "review", "learn", run, *told, f"{name}-2", *loading]
    commands = {"make_index": index, "apply": apply, "learn": learn}
    return {key: shlex.join(words) for key, words in commands.items()}


def _index(wish: Wish) -> Index:
    """The index to search, which `check_index` has passed."""
    assert wish.index is not None
    return Index(
        wish.index,
        partial(EncoderEmbedder, encoder=wish.encoder, trust=wish.trust, where=wish.index),
        in_memory=True,
    )


def _desk(wish: Wish, data: Dataset, library: Library, progress: Progress | None) -> Desk:
    kept = library.add(data.paths, progress)
    if len(kept) < len(data):
        logger.warning(
            "%d of %d images are copies, unreadable or elsewhere, and are not asked about",
            len(data) - len(kept), len(data),
        )  # fmt: skip
    collection = read_collection(
        wish.run, data.subset(kept), encoder=wish.encoder, trust=wish.trust, device=wish.device,
        on_bad_image="skip", progress=progress,
    )  # fmt: skip
    journal = partial(Answers, _journal(wish), read_only=wish.read_only)
    queue = Queue(collection, journal(), who=wish.who)
    return Desk(queue, library, journal, read_only=wish.read_only)


def _journal(wish: Wish) -> Path | None:
    """The journal; None where none is there, and none may be made."""
    path = wish.answers or wish.run / "answers.sqlite"
    there = path.is_file() and path.stat().st_size
    return path if there or not wish.read_only else None
