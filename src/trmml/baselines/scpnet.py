"""SCPNet: texts that learn from their neighbours in meaning, and consistency between two views."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from trmml.baselines.coop import CONTEXT, PROMPT_SPACE, PROMPT_TRAINING
from trmml.baselines.supervision import known_positives
from trmml.baselines.text_graph import GraphSettings, TextGraph, category_graph, smoothing
from trmml.encoders.frozen import FrozenEncoder
from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share, lacking_negatives
from trmml.method.classification import pair_weights, soft_bce, weighted_mean
from trmml.method.interface import MultiLabelModel, Output, Targets
from trmml.method.matching import Matching
from trmml.method.prompts import PromptLearner, build_prompts
from trmml.settings.search_space import OneOf, Range, Space
from trmml.settings.sections import (
    MatchingSettings,
    PromptSettings,
    Section,
    TrainingSettings,
    WholeSettings,
)

# Momentum of the running share of images that each category was picked for, per step.
PICKED_MOMENTUM = 0.9
SPACE: Space = {
    **PROMPT_SPACE,
    "matching.scale": Range(10.0, 100.0, log=True),
    "graph.neighbours": OneOf((4, 16, 64)),
    "graph.share": OneOf((0.1, 0.2, 0.4)),
    "consistency.weight": Range(0.01, 1.0, log=True),
    "consistency.drop": OneOf((0.1, 0.3, 0.5)),
    "losses.margin": OneOf((0.0, 1.0)),
    "losses.focus": OneOf((0.0, 2.0)),
    "losses.blanks": OneOf((0.0, 1.0)),
}


class ConsistencySettings(Section):
    """The self-supervised term (`baselines/scpnet.py`)."""

    weight: float = Field(0.125, ge=0, description="of the two consistency terms; 0 = off")
    relation: float = Field(1.0, ge=0, description="of the graph's term against the other")
    picked: int = Field(2, ge=1, description="most pseudo-positives of an image")
    cutoff: float = Field(0.95, gt=0, lt=1, description="probability of a pseudo-positive at most")
    drop: float = Field(0.3, ge=0, lt=1, description="share dropped of the strong view's feature")


class CorrectionSettings(Section):
    """The supervised loss, which corrects blanks (`baselines/scpnet.py`)."""

    threshold: float = Field(0.6, gt=0, le=1, description="probability that makes a blank positive")
    warm_up_share: float = Field(
        0.5, ge=0, le=1, description="share of the epochs without correction"
    )
    margin: float = Field(1.0, ge=0, description="taken off the logits of positives")
    focus: float = Field(2.0, ge=0, description="focusing of all pairs; 0 = none")
    blanks: float = Field(
        1.0, ge=0, le=1, description="weight of blanks, negatives until corrected; the paper's: 1"
    )


class SCPNetSettings(WholeSettings):
    """SCPNet."""

    prompts: PromptSettings = CONTEXT
    matching: MatchingSettings = MatchingSettings()
    graph: GraphSettings = GraphSettings()
    consistency: ConsistencySettings = ConsistencySettings()
    losses: CorrectionSettings = CorrectionSettings()
    training: TrainingSettings = PROMPT_TRAINING.model_copy(update={"learning_rate": 3e-3})


def corrected_loss(
    logits: Float[Tensor, "B C"],
    targets: Targets,
    weights: Float[Tensor, "B C"],
    *,
    threshold: float,
    margin: float,
    focus: float,
) -> Float[Tensor, ""]:
    """Focal loss with a margin, in which a blank of high probability counts as a positive.

    Args:
        logits: unbounded.
        targets: what is known.
        weights: of known pairs and blanks.
        threshold: probability above which a blank is a positive; 1 = never.
        margin: taken off the logits of known positives, >= 0.
        focus: exponent of the focal weight, >= 0.

    Source: SPLC (Zhang et al. 2021), the supervised loss of SCPNet's code. It corrects any negative
    there, for all of them are blanks; we leave what is known to be absent alone.
    """
    labels = known_positives(targets)
    logits = logits - margin * labels.to(logits.dtype)
    score = logits.sigmoid()
    labels = labels | (~targets.known & (score > threshold))
    missed = torch.where(labels, 1 - score, score)
    loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return weighted_mean(missed**focus * loss, weights)


@dataclass  # not frozen: Fabric casts the fields of what leaves a model
class SCPNetOutput(Output):
    """What SCPNet gives for a batch."""

    # of a strongly changed view of the same images; None outside training
    strong_logits: Float[Tensor, "B C"] | None


class SCPNet(MultiLabelModel[SCPNetOutput]):
    """CoOp whose texts pass through the category graph, with pseudo-labels from a weak view.

    The plain image feature is the weak view, the same with a share of its entries dropped the
    strong one. Of each image the most probable categories that pass their threshold are
    pseudo-positives; the strong view must say so, say no to all others, and agree with the weak
    view's probabilities smoothed over the graph. Images without a pseudo-positive take no part.
    A category that is seldom picked has a lower threshold.

    Shapes: Features of B images -> SCPNetOutput with logits (B, C), in training strong_logits too.
    Trains: context_tokens (C or 1, T, E), W1 to W3, log_scale (), bias (C); nothing of the encoder.
    Source: Ding et al. 2023 (SCPNet), sections 3.2 to 3.4, and its code. Ours: the image encoder
        stays frozen, where theirs is trained whole; hence views of features, not of images; the
        graph from texts; a learned scale and bias; means over pairs in place of sums; AdamW with
        the loop's weight average; picked categories are counted by a running mean, not by a table
        of all images; known absent categories are never pseudo-positives; blanks are corrected in
        the later half, not from the second epoch on, as our epochs are tens of steps, not hundreds.
    """

    weak: Tensor  # (C), weight of blanks as negatives
    picked: Tensor  # (C), running share of images that a category was positive for
    epoch: Tensor  # (), counted from 1
    relation: Tensor  # (C, C), the smoothed graph

    def __init__(
        self,
        *,
        prompts: PromptLearner,
        graph: TextGraph,
        matching: Matching,
        settings: SCPNetSettings,
    ) -> None:
        super().__init__()
        self.prompts, self.graph, self.matching = prompts, graph, matching
        self._consistency, self._losses = settings.consistency, settings.losses
        self._warm_up = settings.losses.warm_up_share * settings.training.epochs
        categories = len(prompts.start_features)
        self.register_buffer("relation", smoothing(graph.graph, settings.graph.temperature))
        self.register_buffer("weak", torch.zeros(categories))
        self.register_buffer("picked", torch.zeros(categories))
        self.register_buffer("epoch", torch.tensor(0))

    def forward(self, features: Features) -> SCPNetOutput:
        """See `MultiLabelModel.forward`."""
        image, text = features.image_feature, self.graph(self.prompts())
        logits = self.matching(image @ text.T)
        if not self.training:
            return SCPNetOutput(logits, None)
        strong = F.normalize(F.dropout(image, self._consistency.drop), dim=-1)
        return SCPNetOutput(logits, self.matching(strong @ text.T))

    def loss_terms(self, output: SCPNetOutput, targets: Targets) -> dict[str, Tensor]:
        """`classification` on known pairs; in training `consistency` and `relation` on images."""
        settings, consistency = self._losses, self._consistency
        warm = int(self.epoch) > self._warm_up  # what corrects must have learned something
        terms = {
            "classification": corrected_loss(
                output.logits,
                targets,
                pair_weights(
                    targets,
                    self.weak.clamp(min=settings.blanks),
                    unanswered=settings.blanks > 0,
                ),
                threshold=settings.threshold if warm else 1.0,
                margin=settings.margin,
                focus=settings.focus,
            )
        }
        if output.strong_logits is not None and consistency.weight > 0:
            labels, passed = self.pseudo_labels(output.logits, targets)
            weights = passed[:, None].float().expand_as(labels)
            smooth = output.logits.detach().sigmoid() @ self.relation.T
            terms["consistency"] = soft_bce(output.strong_logits, labels.float(), weights)
            terms["relation"] = soft_bce(output.strong_logits, smooth, weights)
        return terms

    @torch.no_grad()
    def pseudo_labels(
        self, logits: Float[Tensor, "B C"], targets: Targets
    ) -> tuple[Bool[Tensor, "B C"], Bool[Tensor, " B"]]:
        """Known and pseudo-positives, and the images with any category above its threshold."""
        score = logits.sigmoid()
        count = min(self._consistency.picked, score.shape[1])
        above = score >= self.thresholds()
        top = torch.zeros_like(above).scatter(1, score.topk(count, dim=1).indices, True)
        picked = top & above
        return (picked & ~targets.known) | known_positives(targets), picked.any(dim=1)

    def thresholds(self) -> Float[Tensor, " C"]:
        """Probability of a pseudo-positive: `cutoff` r / (2 - r), r from how often it was picked.

        Source: FlexMatch (Zhang et al. 2021), as in SCPNet's code.
        """
        categories, most = len(self.picked), min(self._consistency.picked, len(self.picked))
        left = most - self.picked.sum()
        rate = self.picked / torch.maximum(self.picked.max(), left).clamp(min=1e-6)
        rate = rate.clamp(min=1 / categories)
        return self._consistency.cutoff * rate / (2 - rate)

    def loss_weights(self) -> dict[str, float]:
        """Classification counts 1, the consistency terms as set."""
        weight = self._consistency.weight
        relation = weight * self._consistency.relation
        return {"classification": 1.0, "consistency": weight, "relation": relation}

    def fast_parameters(self) -> list[str]:
        """Scale and biases: few numbers that must travel far."""
        return ["matching.log_scale", "matching.bias"]

    @torch.no_grad()
    def init_from_labels(self, features: Features, matrix: LabelMatrix) -> None:
        """Set the biases to the known shares of positives, and mark one-sided categories."""
        self.weak.copy_(lacking_negatives(matrix))
        cosines = features.image_feature @ self.graph(self.prompts()).T
        self.matching.start_bias(cosines.mean(dim=0), known_positive_share(matrix).to(cosines))

    def begin_epoch(self) -> None:
        """Count the epochs."""
        self.epoch += 1

    @torch.no_grad()
    def after_step(self, output: SCPNetOutput, targets: Targets, *, evidence: bool) -> None:
        """Count which categories were picked."""
        labels, _ = self.pseudo_labels(output.logits, targets)
        self.picked.lerp_(labels.float().mean(dim=0), 1 - PICKED_MOMENTUM)


def build_scpnet(
    frozen: FrozenEncoder, category_names: Sequence[str], settings: SCPNetSettings
) -> SCPNet:
    """SCPNet for one encoder and one list of categories."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    prompts, _ = build_prompts(frozen.encoder, category_names, settings.prompts, generator)
    graph = category_graph(prompts.start_features, settings.graph)
    with torch.random.fork_rng(devices=[]):  # a start must not depend on what ran before
        torch.manual_seed(settings.training.seed)
        layers = TextGraph(graph, frozen.identity.feature_size)
    return SCPNet(
        prompts=prompts,
        graph=layers,
        matching=Matching(categories=len(category_names), settings=settings.matching),
        settings=settings,
    )
