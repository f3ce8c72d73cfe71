"""A trained run beside zero-shot on the same images, and the results.json that says so."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trmml.baselines.zero_shot import build_zero_shot
from trmml.datasets.base import Dataset
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import FeatureSource
from trmml.labels.matrix import LabelMatrix
from trmml.method.interface import MultiLabelModel, predict
from trmml.metrics.calibration import calibrate
from trmml.metrics.figures import Metrics
from trmml.metrics.measure import measure
from trmml.settings.files import load_settings
from trmml.settings.sections import PromptSettings, Settings
from trmml.storage.provenance import versions


def method_name(settings: Settings) -> str:
    """The name of a run's row, whatever its schedule: by its parts, as the published results do.

    Example:
        >>> method_name(Settings(training={"epochs": 3}))
        'trmml (default)'
        >>> method_name(load_settings("paper", ["training.seed=1"]))
        "TRM-ML (paper's parts)"
        >>> method_name(load_settings("as-published"))
        'TRM-ML'
    """
    presets = {"trmml (default)": Settings(), "TRM-ML (paper's parts)": load_settings("paper")}
    for name, each in presets.items():
        if settings == each.model_copy(update={"training": settings.training}):
            return name
    heads = (settings.image_head, settings.csra_head, settings.neighbour_head)
    beside = settings.stacking.zero_shot or any(head.use for head in heads)
    return "trmml" if beside else "TRM-ML"


@dataclass(frozen=True)
class HeldOut:
    """Encoded training images whose known labels were not trained on.

    Attributes:
        source: of all training images.
        images: which are held out.
        labels: theirs.
        by_blanks: see `calibrate`.
    """

    source: FeatureSource
    images: Int[Tensor, " H"]
    labels: LabelMatrix
    by_blanks: Bool[Tensor, " C"]


def zero_shot_metrics(
    frozen: FrozenEncoder,
    source: FeatureSource,
    data: Dataset,
    *,
    held_out: HeldOut,
    prompts: PromptSettings | None = None,
) -> dict[str, Metrics]:
    """Figures of the frozen encoder by itself, on whole images and on patches ("dense").

    Args:
        frozen: the encoder.
        source: features of the images in `data`.
        data: their labels.
        held_out: see `score`.
        prompts: the template to fill; the default one when None.
    """
    template = (prompts or PromptSettings()).template
    looks: dict[str, Literal["image", "dense"]] = {"zero-shot": "image", "zero-shot dense": "dense"}
    metrics = {}
    for name, look in looks.items():
        model = build_zero_shot(
            frozen.encoder, data.category_names, look=look, templates=[template]
        )
        metrics[name] = score(
            model.to(frozen.device), source, data, device=frozen.device, held_out=held_out
        )
    return metrics


def score(
    model: MultiLabelModel,
    source: FeatureSource,
    data: Dataset,
    *,
    device: str = "cpu",
    held_out: HeldOut | None = None,
) -> Metrics:
    """Figures of a model on encoded images.

    Args:
        model: trained, or nothing to train.
        source: features of the images in `data`.
        data: their labels.
        device: where the model is.
        held_out: known training labels to calibrate on, as a run of TRM-ML is, so that F1 is
            compared like for like; without them the threshold is the mean logit.
    """
    # In double precision, or the sigmoid would tie the best at 1.
    logits = predict(model, source, device=device).double()
    labels, names = data.matrix, data.category_names
    if held_out is None:
        scores = (logits - logits.mean()).sigmoid()
        return measure(scores, labels.labels, labels.known, names)
    held = predict(model, held_out.source, held_out.images, device=device)
    calibration = calibrate(held, held_out.labels, held_out.by_blanks)
    scores, threshold = calibration.probabilities(logits), calibration.thresholds
    return measure(scores, labels.labels, labels.known, names, threshold=threshold)


def results(
    methods: Mapping[str, Metrics], *, known_share: float, seed: int, seconds: float
) -> dict[str, Any]:
    """The tree of results.json: figures in percent, None where one is undefined.

    Args:
        methods: by name, all on the same images.
        known_share: of the training labels.
        seed: of the run and of what was hidden.
        seconds: that all of it took.
    """
    return {
        "unit": "percent",
        "known_share": round(known_share, 4),
        "seed": seed,
        "seconds": round(seconds, 1),
        "cores": torch.get_num_threads(),
        "versions": versions(),
        "methods": {name: figures(metrics) for name, metrics in methods.items()},
    }


def figures(metrics: Metrics) -> dict[str, Any]:
    """The figures that a comparison shows, in percent."""
    shares = {
        "map": metrics.mean_ap,
        "of1": metrics.at_threshold.overall_f1,
        "cf1": metrics.at_threshold.category_f1,
        f"of1_top{metrics.top_k}": metrics.at_top_k.overall_f1,
        f"cf1_top{metrics.top_k}": metrics.at_top_k.category_f1,
    }
    percents = {n: None if math.isnan(v) else round(100 * v, 2) for n, v in shares.items()}
    return {**percents, "images": metrics.images, "categories": metrics.categories}
