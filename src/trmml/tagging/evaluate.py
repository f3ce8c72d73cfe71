"""Score a trained run on labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.datasets.base import Dataset
from trmml.encoders.base import Encoder
from trmml.features.base import FeatureSource, Progress
from trmml.features.extract import Encoded, Encoding, encode_images
from trmml.features.views import joined
from trmml.images import BadImage
from trmml.metrics.figures import Metrics
from trmml.metrics.measure import measure
from trmml.settings.choices import OnBadImage
from trmml.tagging.tagger import Tagger
from trmml.tagging.tags import warn_left_out


@dataclass(frozen=True)
class Evaluation:
    """Figures of a run on a data set, and what they were computed from.

    Attributes:
        metrics: see `metrics.measure`.
        probabilities: calibrated, of the readable images in `data`.
        data: the readable part of what was asked for, in the run's order of categories.
        bad: images left out.
        tagger: what was evaluated.
        source: features of the images.
    """

    metrics: Metrics
    probabilities: Float[Tensor, "N C"]
    data: Dataset
    bad: list[BadImage]
    tagger: Tagger
    source: FeatureSource

    def attention(self, indices: Sequence[int]) -> Float[Tensor, "K C P"]:
        """Region maps over the patches of a few images, computed when asked for."""
        return self.tagger.score(self.source.batch(torch.tensor(indices))).attention


def evaluate(
    run: Tagger | Path | str,
    data: Dataset,
    *,
    encoder: Encoder | str | None = None,
    trust: bool = False,
    device: str = "cpu",
    threshold: float | None = None,
    top_k: int = 3,
    on_bad_image: OnBadImage = "error",
    encoding: Encoding | None = None,
    encoded: Encoded | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a run, or a loaded tagger, on a data set; unknown labels are ignored.

    Args:
        run: a run folder or a tagger.
        data: images and labels; must hold every category of the run, others are ignored.
        encoder: of a run folder; see `Tagger.load`.
        trust: of a run folder; see `Tagger.load`.
        device: of a run folder.
        threshold: one probability for all categories; by default each category's own.
        top_k: of the figures for the k most probable tags.
        on_bad_image: stop at an unreadable image, or leave it out and list it.
        encoding: how features are made and kept; by default in the user's store.
        encoded: features of `data` from the same encoder, where they are computed already.
        progress: called with (what, done, total).

    Raises:
        DataError: a category of the run is missing in the data.

    Example:
        >>> evaluation = evaluate("runs/photos", data)  # doctest: +SKIP
        >>> evaluation.metrics.mean_ap  # doctest: +SKIP
        0.61
    """
    if isinstance(run, Tagger):
        tagger = run
    else:
        tagger = Tagger.load(run, encoder=encoder, trust=trust, device=device)
    data = data.select(tagger.category_names)
    encoded = encoded or encode_images(
        data.paths,
        tagger.frozen,
        encoding=encoding,
        views=tagger.views,
        seed=tagger.seed,
        on_bad_image=on_bad_image,
        progress=progress,
    )
    warn_left_out(len(encoded.bad), len(data))
    data = data.subset(encoded.kept)
    source, parts = joined(encoded.source, tagger.views), torch.split(torch.arange(len(data)), 64)
    probabilities = torch.cat([tagger.score(source.batch(p)).probabilities for p in parts])
    metrics = measure(
        probabilities,
        data.matrix.labels,
        data.matrix.known,
        tagger.category_names,
        threshold=tagger.thresholds(threshold),
        top_k=top_k,
    )
    return Evaluation(metrics, probabilities, data, encoded.bad, tagger, source)
