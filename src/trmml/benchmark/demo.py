"""The main job end to end on drawn scenes and the bundled encoder: nothing to download."""

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trmml.baselines.linear_probe import probe_settings
from trmml.benchmark.catalog import METHODS, Method, PaperSettings
from trmml.datasets.base import Dataset
from trmml.datasets.formats.folder import read_folder
from trmml.encoders import load_encoder
from trmml.encoders.base import Encoder
from trmml.encoders.frozen import FrozenEncoder, frozen_encoder
from trmml.errors import ConfigError
from trmml.features.base import FeatureSource, Progress
from trmml.features.extract import encode_images
from trmml.labels.masks import share_known
from trmml.labels.statistics import counted_by_blanks
from trmml.metrics.figures import Metrics
from trmml.reporting.comparison import HeldOut, method_name, results, score, zero_shot_metrics
from trmml.reporting.report import write_report
from trmml.settings.sections import Settings
from trmml.storage.atomic import write_json, write_text
from trmml.storage.held import LOCK, WHO, held_folder
from trmml.synthetic import write_scenes
from trmml.tagging.evaluate import evaluate
from trmml.tagging.tagger import Tagger
from trmml.training.fit import train_run
from trmml.training.loop import train

MARK = "demo.json"
NEW_IMAGES = 6
# Added to the seed, so that no two folders hold the same scenes.
TEST_SEED, NEW_SEED = 1_000_003, 2_000_003
# What a demo writes: its folder may be replaced as long as it holds nothing else. A demo that is
# killed leaves drafts of scenes, files in the making and the state of its training.
OWN = re.compile(
    r"""
    (demo|model|settings|results|skipped)\.json | log\.jsonl | report\.html
    | (model|known|held_out|pseudo|state|refit)\.safetensors
    | (tags/)? \. [^/]+ \.part
    | tags/ (tags\.jsonl | \d{6} [^/]* \.png)
    | data/ ((train|test|new) | \. (train|test|new) \. [^/]+ \.draft/draft) /
      (README\.md | (labels|labels_partial|captions|boxes)\.csv | images/ \d{6} \.jpg)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind."""

    run: Path  # the run folder, with report.html, results.json and tags/
    new_folder: Path  # images that nothing was trained or tested on
    metrics: dict[str, Metrics]  # of each method on the test scenes
    results: dict[str, Any]  # what results.json holds


def demo(
    out: Path | str = "runs/demo",
    *,
    seed: int = 0,
    known_share: float = 0.3,
    images: int = 1500,
    test_images: int = 600,
    encoder: Encoder | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> DemoResult:
    """Draw scenes, hide labels, train TRM-ML, compare it, tag new images and report.

    Everything runs on the processor, in fp32, so that one seed gives one result.

    Args:
        out: the run folder; an earlier demo's is replaced, any other is refused.
        seed: of the scenes, of what is hidden and of training.
        known_share: of the training labels, in (0, 1].
        images: how many to train on.
        test_images: how many to test on.
        encoder: instead of the bundled one.
        settings: instead of the defaults; the seed is replaced, and `training.refit` is off.
        progress: told (what, done, total) while something long runs.
        note: told a line for people after each step.

    Raises:
        ConfigError: `out` holds something that is no demo's, or the share is out of range.
        CheckpointError: another process works in `out`.

    Example:
        >>> demo("runs/demo").metrics["trmml (default)"].mean_ap  # doctest: +SKIP
    """
    started, out, say = time.monotonic(), Path(out), note or (lambda line: None)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder for the demo")
    settings = _comparable(settings or Settings(), seed)
    share_known(known_share)  # refuses one out of range while the last demo is still there
    with held_folder(out):
        _claim(out)
        full = _draw(out / "data" / "train", images, seed)
        test = _draw(out / "data" / "test", test_images, seed + TEST_SEED)
        new = _draw(out / "data" / "new", NEW_IMAGES, seed + NEW_SEED)
        say(f"drew {images} scenes to train on, {test_images} to test on and {NEW_IMAGES} to tag")
        data = replace(full, matrix=full.matrix.hide(known_share, seed))
        frozen = frozen_encoder(encoder or load_encoder("bundled"))

        training = settings.training
        encoded, asked = (
            encode_images(d.paths, frozen, views=views, seed=seed, progress=progress)
            for d, views in ((data, training.encoded_views), (test, training.scored_views))
        )
        others = _others(frozen, data, encoded.source, test, asked.source, settings, progress)
        for name, found in others.items():
            say(f"{name}: mAP {100 * found.mean_ap:.1f}")
        for record in train_run(
            data,
            frozen.encoder,
            out,
            settings=settings,
            truth=full.matrix,
            device="cpu",
            encoded=encoded,
            progress=progress,
        ):
            say(str(record))

        tagger = Tagger.load(out, encoder=frozen.encoder)
        evaluation = evaluate(tagger, test, encoded=asked)
        _tag(tagger, new, out / "tags")
        write_report(out, evaluation, baselines=others, truth=full.matrix)
        metrics = {**others, method_name(settings): evaluation.metrics}
        seconds = time.monotonic() - started
        tree = results(metrics, known_share=data.matrix.known_share, seed=seed, seconds=seconds)
        tree["train_context"] = settings.prompts.train_context  # the reading of the paper
        write_json(out / "results.json", tree)
        return DemoResult(run=out, new_folder=new.root, metrics=metrics, results=tree)


def _claim(out: Path) -> None:
    """Empty the folder of an earlier demo, which this process holds; never touch anything else.

    Raises:
        ConfigError: the folder holds something that no demo wrote.
    """
    files = [path for path in out.rglob("*") if not path.is_dir() and path.name not in (LOCK, WHO)]
    foreign = [path for path in files if not OWN.fullmatch(path.relative_to(out).as_posix())]
    if files and (foreign or not (out / MARK).is_file()):
        raise ConfigError(
            f"{out} holds {(foreign or files)[0].relative_to(out)}, which is no demo's;"
            " choose another folder, or move it away"
        )
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, WHO):
            path.unlink()
    write_text(out / MARK, json.dumps({"made by": "trmml demo, which may replace this folder"}))


def _comparable(settings: Settings, seed: int) -> Settings:
    """With the seed, and as long a training as the others have: all learn from the same images."""
    training = settings.training.model_copy(update={"seed": seed, "refit": False})
    return settings.model_copy(update={"training": training})


def _draw(folder: Path, images: int, seed: int) -> Dataset:
    """Write scenes and read them back as a user would, with all labels."""
    write_scenes(folder, images=images, seed=seed)
    return read_folder(folder, folder / "labels.csv")


def _others(
    frozen: FrozenEncoder,
    data: Dataset,
    known: FeatureSource,
    test: Dataset,
    asked: FeatureSource,
    settings: Settings,
    progress: Progress | None,
) -> dict[str, Metrics]:
    """Zero-shot, which learns nothing, and on the known labels a linear probe and the paper."""
    paper = METHODS["trmml-paper"]
    own: dict[str, tuple[Method, Any]] = {
        "linear probe": (METHODS["probe-masked"], probe_settings(settings))
    }
    if method_name(settings) != paper.name:
        own[paper.name] = (paper, PaperSettings(training=settings.training))
    found = dict[str, Metrics]()
    for name, (method, chosen) in own.items():
        trainer = method.trainer(frozen, data.category_names, chosen, known, data.matrix)
        for _ in train(trainer, progress=progress):
            pass
        rows, by_blanks = data.matrix.subset(trainer.held), counted_by_blanks(data.matrix)
        held = HeldOut(known, trainer.held, rows, by_blanks)
        found[name] = score(trainer.model, asked, test, held_out=held)
    # The images that are held out are the same for all.
    return {
        **zero_shot_metrics(frozen, asked, test, prompts=settings.prompts, held_out=held),
        **found,
    }


def _tag(tagger: Tagger, new: Dataset, folder: Path) -> None:
    """Tag images of which nothing is known: region maps and a line of JSON each."""
    tagged = tagger.tag(new.paths, explain=folder)
    lines = [json.dumps(image.to_dict(), ensure_ascii=False) for image in tagged]
    write_text(folder / "tags.jsonl", "".join(line + "\n" for line in lines))
