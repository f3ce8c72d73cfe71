"""SARB-style: one vector per category and image, blended across images to complete the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from trmml.baselines.category_features import CategoryFeatures, CategoryFeatureSettings
from trmml.baselines.supervision import known_positives
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share, lacking_negatives
from trmml.method.classification import pair_weights, soft_bce
from trmml.method.interface import MultiLabelModel, Output, Targets
from trmml.method.prompts import encode_prompts, fill
from trmml.settings.search_space import RATES, OneOf, Space
from trmml.settings.sections import Section, TrainingSettings, WholeSettings

SPACE: Space = {
    **RATES,
    "training.epochs": OneOf((3, 6, 12, 24, 48)),
    "features.size": OneOf((64, 128, 256)),
    "features.dropout": OneOf((0.0, 0.2, 0.5)),
    "blending.prototypes": OneOf((1, 4, 10)),
    "blending.instance": OneOf((0.0, 0.3, 1.0)),
    "blending.prototype": OneOf((0.0, 0.3, 1.0)),
    "blending.contrast": OneOf((0.0, 0.05, 0.3)),
}


class BlendingSettings(Section):
    """The blended terms (`baselines/sarb.py`)."""

    warm_up_share: float = Field(0.25, ge=0, le=1, description="share of the epochs without them")
    prototypes: int = Field(4, ge=1, description="of each category; the paper has 10")
    momentum: float = Field(0.9, ge=0, lt=1, description="of a prototype, each time it is met")
    instance: float = Field(1.0, ge=0, description="weight of the instance-level term; 0 = off")
    prototype: float = Field(1.0, ge=0, description="weight of the prototype-level term; 0 = off")
    contrast: float = Field(0.05, ge=0, description="weight of the contrastive term; 0 = off")


class SARBSettings(WholeSettings):
    """SARB-style blending."""

    features: CategoryFeatureSettings = CategoryFeatureSettings()
    blending: BlendingSettings = BlendingSettings()
    # Held-out mAP rises for some 400 steps of 64 images, and no more in 1,600.
    training: TrainingSettings = TrainingSettings(epochs=24, learning_rate=1e-3)


@dataclass  # not frozen: Fabric casts the fields of what leaves a model
class SARBOutput(Output):
    """What SARB gives for a batch."""

    category_features: Float[Tensor, "B C R"]  # one vector per image and category, any length


class SARB(MultiLabelModel[SARBOutput]):
    """Classifiers on vectors per category; unknown categories borrow vectors of known positives.

    logits_bc = <tanh(f_bc), w_c> + bias_c
    Instance level: where c is unknown in image b and known present in its partner, the vectors are
    blended a : 1 - a, and the label is 1 - a. Prototype level: in each image one unknown category,
    drawn at random, is blended b : 1 - b with a prototype of it, and its label is 1 - b.

    Shapes: Features of B images -> SARBOutput with logits (B, C) and category_features (B, C, R).
    Trains: `CategoryFeatures`, w (C, R), bias (C), a and b (); nothing of the encoder.
    Source: Pu et al. 2022 (SARB), sections 3.2 to 3.5, and its code for labels and partners (the
        batch reversed). Ours: the backbone is frozen, where theirs trains its last stage; text
        features in place of GloVe, which also give w its start; no graph network over
        co-occurrences, which partial labels hardly tell; R = 128; a and b through a sigmoid, not
        clamped; prototypes by running means from batch to batch, each known positive to the
        nearest, not by k-means over all images every few epochs; the contrastive term over all
        pairs of known labels, not over the hardest.
    """

    weak: Tensor  # (C), weight of blanks as negatives
    epoch: Tensor  # (), counted from 1
    prototypes: Tensor  # (C, K, R)
    filled: Tensor  # (C, K), bool

    def __init__(
        self, *, features: CategoryFeatures, settings: SARBSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        categories = len(features.text_features)
        size, self._settings = settings.features.size, settings.blending
        self._warm_up = settings.blending.warm_up_share * settings.training.epochs
        self.features = features
        # A random map of the texts: at zero the vectors would have to wait for it to learn.
        text = features.text_features
        start = text @ torch.randn(text.shape[1], size, generator=generator).to(text)
        self.weight = nn.Parameter(start / size**0.5)
        self.bias = nn.Parameter(torch.zeros(categories))
        self.blends = nn.Parameter(torch.zeros(2))  # of instances, of prototypes; sigmoid(0) = 1/2
        slots = (categories, settings.blending.prototypes)
        self.register_buffer("weak", torch.zeros(categories))
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("prototypes", torch.zeros(*slots, size))
        self.register_buffer("filled", torch.zeros(slots, dtype=torch.bool))

    def forward(self, features: Features) -> SARBOutput:
        """See `MultiLabelModel.forward`."""
        vectors = self.features(features.hidden_patches)
        logits = (vectors.tanh() * self.weight).sum(dim=-1) + self.bias
        return SARBOutput(logits, vectors)

    def loss_terms(self, output: SARBOutput, targets: Targets) -> dict[str, Tensor]:
        """`classification` on known pairs, `contrast`, and after the warm-up the two blends."""
        vectors, settings = output.category_features, self._settings
        labels, weights = known_positives(targets), pair_weights(targets, self.weak)
        terms = {"classification": soft_bce(output.logits, labels.float(), weights)}
        if settings.contrast > 0:
            terms["contrast"] = contrast(vectors, labels, targets.known)
        if int(self.epoch) <= self._warm_up:
            return terms
        own, prototype = self.blends.sigmoid()
        if settings.instance > 0:
            image, category = (~targets.known & labels.flip(0)).nonzero(as_tuple=True)
            blend = Blend(image, category, lent=vectors.flip(0)[image, category], share=own)
            terms["instance"] = self._completed(output, labels, weights, blend)
        if settings.prototype > 0:
            image, category = self._draw(~targets.known)
            lent = self._draw_prototypes(category)
            blend = Blend(image, category, lent=lent, share=prototype)
            terms["prototype"] = self._completed(output, labels, weights, blend)
        return terms

    def _completed(
        self,
        output: SARBOutput,
        labels: Bool[Tensor, "B C"],
        weights: Float[Tensor, "B C"],
        blend: "Blend",
    ) -> Float[Tensor, ""]:
        """Cross-entropy over the pairs of the batch, those that were blended with a new label."""
        place = blend.image, blend.category
        mixed = blend.share * output.category_features[place] + (1 - blend.share) * blend.lent
        weight, bias = self.weight[blend.category], self.bias[blend.category]
        logits = output.logits.index_put(place, (mixed.tanh() * weight).sum(dim=-1) + bias)
        targets = labels.float().index_put(place, (1 - blend.share).expand(len(mixed)))
        return soft_bce(logits, targets, weights.index_put(place, torch.ones_like(mixed[:, 0])))

    def _draw(self, unknown: Bool[Tensor, "B C"]) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
        """Image and category of one unknown pair per image that has any with a prototype."""
        candidates = unknown & self.filled.any(dim=1)
        draws = torch.rand(candidates.shape, device=candidates.device)
        category = draws.masked_fill(~candidates, -1).argmax(dim=1)
        image = candidates.any(dim=1).nonzero()[:, 0]
        return image, category[image]

    def _draw_prototypes(self, category: Int[Tensor, " M"]) -> Float[Tensor, "M R"]:
        """One of the prototypes of each category, at random."""
        filled = self.filled[category]
        draws = torch.rand(filled.shape, device=filled.device)
        return self.prototypes[category, draws.masked_fill(~filled, -1).argmax(dim=1)]

    def loss_weights(self) -> dict[str, float]:
        """Classification counts 1; the others as set."""
        settings = self._settings
        return {
            "classification": 1.0,
            "contrast": settings.contrast,
            "instance": settings.instance,
            "prototype": settings.prototype,
        }

    def fast_parameters(self) -> list[str]:
        """Biases and the shares of the blends: few numbers that must travel far."""
        return ["bias", "blends"]

    @torch.no_grad()
    def init_from_labels(self, features: Features, matrix: LabelMatrix) -> None:
        """Set the biases to the known shares of positives, and mark one-sided categories."""
        self.weak.copy_(lacking_negatives(matrix))
        self.bias.copy_(known_positive_share(matrix).to(self.bias).logit())

    def begin_epoch(self) -> None:
        """Count the epochs."""
        self.epoch += 1

    @torch.no_grad()
    def after_step(self, output: SARBOutput, targets: Targets, *, evidence: bool) -> None:
        """Move the prototypes nearest to the vectors of known positives towards them."""
        pairs = known_positives(targets).nonzero(as_tuple=True)
        vectors, category = output.category_features[pairs].to(self.prototypes), pairs[1]
        count = self.filled.shape[1]
        place = category * count + nearest(
            vectors, self.prototypes[category], self.filled[category]
        )
        flat, filled = self.prototypes.flatten(0, 1), self.filled.flatten()
        met = torch.zeros_like(flat[:, 0]).index_add(0, place, torch.ones_like(vectors[:, 0]))
        mean = torch.zeros_like(flat).index_add(0, place, vectors) / met.clamp(min=1)[:, None]
        keep = torch.where(filled, self._settings.momentum**met, (met == 0).float())[:, None]
        self.prototypes.copy_((keep * flat + (1 - keep) * mean).view_as(self.prototypes))
        self.filled.copy_((filled | (met > 0)).view_as(self.filled))


@dataclass(frozen=True)
class Blend:
    """Pairs whose vectors are blended with lent ones, and thereby get a label."""

    image: Int[Tensor, " M"]  # of each pair
    category: Int[Tensor, " M"]  # of each pair
    lent: Float[Tensor, "M R"]  # vectors of known positives of that category
    share: Float[Tensor, ""]  # of the pair's own vector, in (0, 1); the label is what it lacks to 1


def nearest(
    vectors: Float[Tensor, "M R"], prototypes: Float[Tensor, "M K R"], filled: Bool[Tensor, "M K"]
) -> Int[Tensor, " M"]:
    """The prototype that each vector belongs to: the first empty one, else the nearest."""
    distance = (vectors[:, None] - prototypes).square().sum(dim=-1)
    return distance.masked_fill(~filled, -1.0).argmin(dim=1)


def contrast(
    vectors: Float[Tensor, "B C R"], labels: Bool[Tensor, "B C"], known: Bool[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """How little the vectors of a category agree where it is present, and agree where it is not.

    Mean over all pairs of images with a known label of c, one positive at least: 1 - cosine for two
    positives, 1 + cosine for a positive and a negative. Sums over pairs are products of sums over
    images, so no pair is ever made.

    Args:
        vectors: any length.
        labels: read only where `known` is True.
        known: True where an annotator answered.

    Returns:
        0 when there is no such pair.

    Source: Pu et al. 2022 (SARB), equation of the contrastive loss.
    """
    unit = F.normalize(vectors, dim=-1)
    positive = (labels & known).to(vectors.dtype)
    negative = (~labels & known).to(vectors.dtype)
    with_positive = torch.einsum("bc,bcr->cr", positive, unit)
    with_negative = torch.einsum("bc,bcr->cr", negative, unit)
    alone = (positive[..., None] * unit.square()).sum(dim=(0, 2))
    count, others = positive.sum(dim=0), negative.sum(dim=0)
    same = count * (count - 1) / 2
    apart = count * others
    agreeing = (with_positive.square().sum(dim=-1) - alone) / 2
    opposing = (with_positive * with_negative).sum(dim=-1)
    total = (same - agreeing + apart + opposing).sum()
    return total / (same + apart).sum().clamp(min=1)


def build_sarb(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: SARBSettings
) -> SARB:
    """SARB-style blending for one encoder and one list of categories."""
    text = encode_prompts(frozen.encoder, fill(settings.features.template, category_names))
    with torch.random.fork_rng(devices=[]):  # a start must not depend on what ran before
        torch.manual_seed(settings.training.seed)
        features = CategoryFeatures(text, frozen.identity.hidden_size, settings.features)
    generator = torch.Generator().manual_seed(settings.training.seed)
    return SARB(features=features, settings=settings, generator=generator)
