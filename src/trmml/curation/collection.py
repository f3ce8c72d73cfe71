"""A collection as a run sees it: what is known, what the run says, and what it would have said."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.curation.cross_fit import cross_fitted, directions_of, stride
from trmml.curation.folds import image_folds
from trmml.curation.recalibration import plain_calibration
from trmml.curation.weighing import Unseen
from trmml.datasets.base import Dataset
from trmml.datasets.tables.names import suggest
from trmml.encoders.base import Encoder
from trmml.errors import ConfigError, DataError
from trmml.features.base import FeatureSource, Progress
from trmml.features.extract import Encoding, encode_images
from trmml.features.views import joined
from trmml.images import BadImage
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import counted_by_blanks
from trmml.metrics.calibration import Calibration
from trmml.settings.choices import OnBadImage
from trmml.storage.hashes import hash_file
from trmml.storage.tensors import load_tensors
from trmml.tagging.tagger import Tagger
from trmml.tagging.tags import warn_left_out

BATCH = 64
# Share of a run's held-out present labels that a table of the same images has too.
SAME = 0.8
# Standard errors by which evidence must help linear heads to be trusted beside the run. On the
# scenes at half known it helped them by 2 errors, and took 1.0 mAP from the run.
STAND_IN_ERRORS = 3.0


@dataclass(frozen=True, eq=False)
class Collection:
    """The readable images of a data set, with labels and logits in the run's order of categories.

    Attributes:
        data: its columns are the run's categories; one that the table lacks is unknown throughout.
        logits: of the run, calibrated. It was trained on the known pairs, and on no unknown one.
        features: of whole images, unit length.
        means: mean hidden patches, fp16: what a head on frozen features learns from.
        calibration: of the run; it gave `logits` already, and holds the thresholds.
        run: SHA-256, in hex, of the run's model.json.
        bad: images left out.
        held_out: images that the run's first training left out, with its logits; None where the
            run was trained on others, or cannot tell.
    """

    data: Dataset
    logits: Float[Tensor, "N C"]
    features: Float[Tensor, "N D"]
    means: Float[Tensor, "N W"]
    calibration: Calibration
    run: str
    bad: list[BadImage] = field(default_factory=list)
    held_out: Unseen | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.data)

    @property
    def category_names(self) -> tuple[str, ...]:
        """Of the run, in its order."""
        return self.data.category_names

    @property
    def matrix(self) -> LabelMatrix:
        """What is known of each pair."""
        return self.data.matrix

    @cached_property
    def inputs(self) -> Float[Tensor, "N K"]:
        """What a linear head reads of each image; see `cross_fit.directions_of`."""
        return directions_of(self.means)

    @cached_property
    def folds(self) -> Int[Tensor, " N"]:
        """The fold of each image, near-duplicates in one; see `folds.image_folds`."""
        return image_folds(self.features)

    @cached_property
    def out_of_sample(self) -> Float[Tensor, "N C"]:
        """Logits by heads that were fitted without the image and its near-duplicates."""
        return cross_fitted(self.inputs, self.matrix, self.folds)

    @cached_property
    def expected(self) -> Float[Tensor, "N C"]:
        """Calibrated log-odds by these heads."""
        some = torch.arange(len(self))[:: stride(len(self))]
        by_blanks = counted_by_blanks(self.matrix)
        lines = plain_calibration(self.out_of_sample[some], self.matrix.subset(some), by_blanks)
        return lines.logits(self.out_of_sample)

    @cached_property
    def unseen(self) -> Unseen:
        """Images with log-odds of a model that never saw them: the run, else linear heads."""
        if self.held_out is not None:
            return self.held_out
        some = torch.arange(len(self))[:: stride(len(self))]
        return Unseen(some, self.expected[some], STAND_IN_ERRORS)


def read_collection(
    run: Path | str,
    data: Dataset,
    *,
    encoder: Encoder | str | None = None,
    trust: bool = False,
    device: str = "cpu",
    on_bad_image: OnBadImage = "error",
    encoding: Encoding | None = None,
    progress: Progress | None = None,
) -> Collection:
    """A data set with all that a run says of it; features come from the store where they are there.

    Args:
        run: folder of a finished run.
        data: images and labels; categories that the run lacks are ignored.
        encoder: see `Tagger.load`.
        trust: see `Tagger.load`.
        device: see `Tagger.load`.
        on_bad_image: stop at an unreadable image, or leave it out and list it.
        encoding: how features are made and kept; by default in the user's store.
        progress: called with (what, done, total).

    Raises:
        CheckpointError: no finished run there, or another encoder.
        DataError: none of the run's categories is in the data, or an image cannot be read.
    """
    tagger = Tagger.load(run, encoder=encoder, trust=trust, device=device)
    data = with_columns(data, tagger.category_names)
    encoded = encode_images(
        data.paths,
        tagger.frozen,
        encoding=encoding,
        views=tagger.views,
        seed=tagger.seed,
        on_bad_image=on_bad_image,
        progress=progress,
    )
    warn_left_out(len(encoded.bad), len(data))
    return Collection(
        data.subset(encoded.kept),
        *_read(tagger, joined(encoded.source, tagger.views), progress),
        calibration=tagger.calibration,
        run=hash_file(Path(run) / "model.json"),
        bad=encoded.bad,
        held_out=held_out_of(Path(run), data.subset(encoded.kept), tagger.calibration),
    )


def held_out_of(run: Path, data: Dataset, calibration: Calibration) -> Unseen | None:
    """Images that a run's first training left out; None where the data are other images.

    A run before 2026-12 has their places and no names. In either case most of what the run knew
    to be present there must be so in the data.

    Args:
        run: folder of a finished run.
        data: with the run's categories; more may be known than the run knew.
        calibration: of the run.
    """
    if not (run / "held_out.safetensors").exists():
        return None
    held, told = load_tensors(run / "held_out.safetensors")
    places = {name: place for place, name in enumerate(data.images)}
    names = json.loads(told.get("names", "[]"))
    found = [places.get(name, -1) for name in names] or held["images"].tolist()
    kept = torch.tensor([n for n, place in enumerate(found) if 0 <= place < len(data)]).long()
    images = torch.tensor(found).long()[kept]
    present, now = (held["labels"] & held["known"])[kept], data.matrix.subset(images)
    agreed = int((present & now.labels & now.known).sum())
    if not agreed or agreed < SAME * int(present.sum()):
        return None
    return Unseen(images, calibration.logits(held["logits"][kept]).float())


def with_columns(data: Dataset, category_names: tuple[str, ...]) -> Dataset:
    """The same images with these categories; those that the data lacks are unknown throughout.

    Raises:
        DataError: it lacks them all.
    """
    places = {name: place for place, name in enumerate(data.category_names)}
    shared = [name for name in category_names if name in places]
    if not shared:
        raise DataError(
            f"none of the table's {len(places)} categories ({shorten(', '.join(places), 200)}) is"
            f" one of the run's {len(category_names)} ({shorten(', '.join(category_names), 200)});"
            " name the run that was trained on such a table, or correct the names"
        )
    columns = [category_names.index(name) for name in shared]
    labels, known = torch.zeros(2, len(data), len(category_names), dtype=torch.bool)
    found = data.matrix.columns([places[name] for name in shared])
    labels[:, columns], known[:, columns] = found.labels, found.known
    return Dataset(data.root, data.images, category_names, LabelMatrix(labels, known), data.rows)


def _read(
    tagger: Tagger, source: FeatureSource, progress: Progress | None
) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N D"], Float[Tensor, "N W"]]:
    """Calibrated logits, image features and mean hidden patches of all images, in one pass."""
    logits, features, means = list[Tensor](), list[Tensor](), list[Tensor]()
    for part in torch.split(torch.arange(len(source)), BATCH):
        batch = source.batch(part)
        with torch.no_grad():
            output = tagger.output(batch.to(tagger.device)).logits.double().cpu()
        logits.append(tagger.calibration.logits(output).float())
        features.append(batch.image_feature.cpu())
        means.append(batch.hidden_patches.mean(dim=1).half().cpu())
        if progress is not None:
            progress("score", int(part[-1]) + 1, len(source))
    return torch.cat(logits), torch.cat(features), torch.cat(means)


def check_categories(asked: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a category that a run does not have.

    Raises:
        ConfigError: naming it, the nearest that there is, and the run's.
    """
    for name in asked:
        if name not in names:
            raise ConfigError(
                f"the run has no category {name!r}{suggest(name, names)} It has"
                f" {shorten(', '.join(names), 200)}."
            )
