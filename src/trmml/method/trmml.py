"""TRM-ML: the boxes of the paper's figure, joined in its order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.features import ranks
from trmml.features.base import Features
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import known_positive_share, lacking_negatives
from trmml.method.classification import focused_loss, matrix_weights, pair_weights, weighted_bce
from trmml.method.contrastive import contrast_regions
from trmml.method.distillation import FrozenScores, distillation
from trmml.method.heads.image_head import ImageHead
from trmml.method.heads.joined import Heads
from trmml.method.heads.neighbour_head import NeighbourHead
from trmml.method.interface import MultiLabelModel, Targets
from trmml.method.matching import Matching, match
from trmml.method.prompts import PromptLearner, StoredPrompts
from trmml.method.prototypes import Prototypes
from trmml.method.pseudo_labels import PseudoLabeller, evidence_of
from trmml.method.regions import RegionAttention, RegionOutput
from trmml.settings.sections import Settings

# Numbers in the region features that are made at a time: 16 MiB, so that they stay in the cache.
MAX_FLOATS = 2**22
# Images taken together before and after training: with thousands of categories they take room.
START_BATCH = 32


@dataclass  # not frozen: Fabric casts the fields of what leaves a model
class TRMMLOutput(RegionOutput):
    """What TRM-ML gives for a batch; `logits` have no gradient where other heads take part.

    Attributes:
        match_logits: of text-region matching alone.
        head_logits: what is combined into the logits, by name, the match first; of trained
            categories only.
        text_features: unit length.
        teacher: the frozen encoder's logits, in training with distillation.
    """

    match_logits: Float[Tensor, "B C"]
    head_logits: dict[str, Float[Tensor, "B trained"]]
    text_features: Float[Tensor, "C D"]
    teacher: Float[Tensor, "B C"] | None


@dataclass(frozen=True)
class _Texts:
    """Text features of K categories, trained ones before new ones, and what goes with them."""

    anchors: Float[Tensor, "K D"]
    positive: Float[Tensor, "K D"]
    negative: Float[Tensor, "K D"]
    biases: Float[Tensor, " K"]
    new: int


class TRMML(MultiLabelModel[TRMMLOutput]):
    """Text-region matching: prompts -> text features, regions -> region features, match one to one.

    Built from parts, in the order of the paper's figure; `build.py` makes them from settings.

    Shapes: Features of B images -> TRMMLOutput with logits (B, C).
    Trains: what its parts train; nothing of the encoder.
    """

    text_features: Tensor  # (C, D), set by `freeze_text_features`
    negative_text_features: Tensor  # (C, D), set by `freeze_text_features`
    weak: Tensor  # (C), weight of blanks as negatives
    share: Tensor  # (C), of positives among the known training labels
    matching: Matching

    def __init__(
        self,
        *,
        project: Callable[[Tensor], Tensor],
        prompts: PromptLearner | StoredPrompts,
        negative_prompts: PromptLearner | None,
        regions: RegionAttention,
        matching: Matching,
        prototypes: Prototypes,
        heads: Heads,
        settings: Settings,
    ) -> None:
        super().__init__()
        self._project = project  # the frozen encoder's; a bound method is no submodule
        self._frozen = FrozenScores(settings.regions, settings.matching)
        self.settings, self.losses = settings, settings.losses
        self.prompts, self.negative_prompts = prompts, negative_prompts
        self.regions, self.matching, self.prototypes = regions, matching, prototypes
        self.heads = heads
        start = prompts.start_features
        self.register_buffer("text_features", torch.zeros_like(start))
        self.register_buffer("negative_text_features", torch.zeros_like(start))
        self.register_buffer("weak", torch.zeros(len(start)))
        self.register_buffer("share", torch.full((len(start),), 0.5))
        self.text_is_frozen = False

    # From features to logits ---------------------------------------------------------------

    def forward(
        self,
        features: Features,
        new_text: Float[Tensor, "K D"] | None = None,
        new_negative: Float[Tensor, "K D"] | None = None,
    ) -> TRMMLOutput:
        """Match every category's region with its text, and combine that with the other heads.

        Args:
            features: of B images.
            new_text: unit-length text features of K categories that were not trained; their logits
                come behind those of the C trained ones, with the mean of the learned biases.
            new_negative: their negative prompts, where the model has such.
        """
        patches, texts = self._project(features.hidden_patches), self._texts(new_text, new_negative)
        regions = self.regions(features.hidden_patches, patches, texts.anchors, texts.new)
        products = match(regions, texts.positive - texts.negative)
        match_logits = self.matching(products, texts.biases)
        dense, teacher = self._frozen_scores(features, patches)
        trained, new = match_logits.tensor_split([len(self.weak)], dim=1)
        head_logits = self.heads(features, trained, dense)
        logits = torch.cat([self.heads.combined(head_logits), new], dim=1)
        return TRMMLOutput(logits, regions, match_logits, head_logits, texts.positive, teacher)

    def texts(self) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C D"]]:
        """Positive and negative text features; the latter are zero without a negative prompt."""
        if self.text_is_frozen and not self.training:
            return self.text_features, self.negative_text_features
        text: Tensor = self.prompts()
        negative = self.negative_prompts
        return text, torch.zeros_like(text) if negative is None else negative()

    def _texts(self, new: Tensor | None, new_negative: Tensor | None) -> _Texts:
        """The texts of all categories, those of new ones behind the trained ones."""
        text, negative = self.texts()
        anchors, biases = self.prompts.start_features, self.matching.bias
        if new is None:
            return _Texts(anchors, text, negative, biases, new=0)
        plain = torch.zeros_like(new) if new_negative is None else new_negative
        return _Texts(
            anchors=torch.cat([anchors, new]),
            positive=torch.cat([text, new]),
            negative=torch.cat([negative, plain]),
            biases=torch.cat([biases, biases.mean().expand(len(new))]),
            new=len(new),
        )

    def _frozen_scores(
        self, features: Features, patches: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B C"] | None, Float[Tensor, "B C"] | None]:
        """The zero-shot head's logits and the teacher's, each where it is needed."""
        text = self.prompts.start_features
        if self.training and self.losses.distillation > 0:
            # Of negative prompts the teacher takes off as much as the match does.
            negative = getattr(self.negative_prompts, "start_features", 0.0)
            dense = self._frozen.dense(patches, text, negative)
            return None, self._frozen.teacher(dense, features.image_feature, text - negative)
        if self.heads.has_zero_shot:
            return self._frozen.dense(patches, text), None
        return None, None

    # What is trained ------------------------------------------------------------------------

    def loss_terms(self, output: TRMMLOutput, targets: Targets) -> dict[str, Tensor]:
        """`classification`, `pseudo`, `distillation`, `contrastive`, and `csra` of that head."""
        losses, logits = self.losses, output.match_logits
        labels = targets.labels & targets.known
        # Where a category lacks known negatives, blanks count as weak ones, pseudo-labels apart.
        weights = pair_weights(targets, losses.weak_negative * self.weak)
        terms = {"classification": focused_loss(logits, labels, weights, losses, losses.reduction)}
        if "csra" in output.head_logits:
            known = pair_weights(targets, self.weak)
            terms["csra"] = weighted_bce(output.head_logits["csra"], labels, known)
        if losses.pseudo > 0:
            pseudo = targets.pseudo.float()
            # A guess never weighs more than a known label, however few there are.
            terms["pseudo"] = focused_loss(
                logits, targets.pseudo_labels, pseudo, losses, losses.reduction, beside=weights
            )
        if losses.distillation > 0 and output.teacher is not None:
            student = logits - self.matching.bias
            temperature = losses.distillation_temperature
            terms["distillation"] = distillation(student, output.teacher, temperature)
        if losses.contrastive > 0:
            terms["contrastive"] = contrast_regions(
                output.regions,
                targets,
                output.text_features,
                self.prototypes.visual_positive,
                temperature=losses.contrastive_temperature,
            )
        return terms

    def loss_weights(self) -> dict[str, float]:
        """Each head's own classification counts 1; the others as set."""
        losses = self.losses
        return {
            "classification": 1.0,
            "csra": 1.0,
            "pseudo": losses.pseudo,
            "distillation": losses.distillation,
            "contrastive": losses.contrastive,
        }

    def fast_parameters(self) -> list[str]:
        """Scales and biases: few numbers that must travel far."""
        scales = ["regions.log_scale", "matching.log_scale"]
        return [*scales, "matching.bias", "heads.csra.mean.bias"]

    def rate_factors(self) -> dict[str, float]:
        """The CSRA head learns at a rate of its own."""
        return {"heads.csra.": self.settings.csra_head.rate_factor}

    @property
    def learns_from_unanswered(self) -> bool:
        """See `Settings.learns_from_unanswered`."""
        return self.settings.learns_from_unanswered

    def pseudo_labeller(
        self, matrix: LabelMatrix, held: Int[Tensor, " H"], epochs: int
    ) -> PseudoLabeller | None:
        """See `MultiLabelModel.pseudo_labeller`."""
        if self.losses.pseudo == 0:
            return None
        return PseudoLabeller(matrix, held, settings=self.settings.prototypes, epochs=epochs)

    def separate_head(self) -> ImageHead | None:
        """The image head."""
        return self.heads.image

    def neighbour_head(self) -> NeighbourHead | None:
        """The neighbour head."""
        return self.heads.neighbours

    # Before, in and after training -----------------------------------------------------------

    @torch.no_grad()
    def init_from_labels(self, features: Features, matrix: LabelMatrix) -> None:
        """Set the biases to the known shares of positives, and mark one-sided categories."""
        self.weak.copy_(lacking_negatives(matrix))
        share = known_positive_share(matrix)
        self.share.copy_(share)
        self.heads.start(features, share)
        if not self.matching.bias.requires_grad:
            return
        training = self.training
        self.eval()
        text, negative = self.texts()
        anchors, total = self.prompts.start_features, torch.zeros(len(text), device=text.device)
        for hidden in torch.split(features.hidden_patches, START_BATCH):
            regions = self.regions(hidden, self._project(hidden), anchors)
            total += match(regions, text - negative).sum(dim=0)
        self.train(training)
        self.matching.start_bias(total / len(features), share.to(text))

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """Find each category's rivals, which the evidence for pseudo-labels compares with."""
        if self.losses.pseudo > 0:
            self.prototypes.choose_rivals(self.texts()[0])

    @torch.no_grad()
    def after_step(
        self, output: TRMMLOutput, targets: Targets, *, evidence: bool
    ) -> Float[Tensor, "B C"] | None:
        """Update the prototypes from known pairs; return the evidence for every pair if asked."""
        self.heads.track(output.head_logits)
        evidence = evidence and self.losses.pseudo > 0
        if self.losses.pseudo == 0 == self.losses.contrastive:
            return None  # nothing uses the prototypes
        text, parts = output.text_features, []
        known = ranks.total(targets.known.any(dim=0).float()) > 0
        wanted = torch.ones_like(known) if evidence else known
        images, size = len(ranks.joined(targets.known[:, :1].float())), text.shape[1]
        for some in torch.split(wanted.nonzero()[:, 0], max(1, MAX_FLOATS // (images * size))):
            made = output.regions.features(some)  # (B, k, D)
            self.prototypes.update(made, targets.labels[:, some], targets.known[:, some], some)
            if evidence:
                parts.append(evidence_of(made, text, self.prototypes, some))
        return torch.cat(parts, dim=1) if parts else None

    @torch.no_grad()
    def freeze_text_features(self) -> None:
        """Compute the text features once; in eval mode they are then used as they are."""
        self.text_is_frozen = False
        text, negative = self.texts()
        self.text_features.copy_(text)
        self.negative_text_features.copy_(negative)
        self.text_is_frozen = True

    @torch.no_grad()
    def fit_on_held_out(self, outputs: Iterable[TRMMLOutput], matrix: LabelMatrix) -> None:
        """Measure the heads on the held-out images, and fit their weights to the labels."""
        # Blanks are negatives where they were in training, not where nothing is held out.
        weights = matrix_weights(matrix, self.weak.cpu())
        batches = (output.head_logits for output in outputs)
        self.heads.fit(batches, matrix, weights, self.share.cpu())

    @property
    def gives_log_odds(self) -> bool:
        """Where the heads' weights were fitted."""
        return self.heads.stacking is not None and self.heads.stacking.fitted

    @torch.no_grad()
    def held_out_fit(self, features: Features) -> dict[str, Tensor]:
        """The weights of the heads, and the logits of each."""
        return self.heads.held_out_fit(self._head_logits(features))

    @torch.no_grad()
    def keep_held_out_fit(self, fit: dict[str, Tensor], features: Features) -> None:
        """The heads keep their parts in the sum."""
        self.heads.keep_held_out_fit(fit, self._head_logits(features))

    def _head_logits(self, features: Features) -> dict[str, Tensor]:
        """Of many images, which are looked at a few at a time."""
        found = [
            self(part.to(self.weak.device)).head_logits for part in features.split(START_BATCH)
        ]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    def restart(self, start: dict[str, Tensor]) -> None:
        """See `MultiLabelModel.restart`; the texts are trained again."""
        super().restart(start)
        self.text_is_frozen = False
