"""TRM-ML: the parts of the method joined, in the order of the paper's figure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.encoders.base import Encoder, EncoderIdentity
from trmml.features.base import Features, Progress
from trmml.labels.matrix import LabelMatrix
from trmml.method.classification import (
    asymmetric_loss,
    contrastive_loss,
    distillation,
    draw_anchors,
    weighted_bce,
)
from trmml.method.heads.csra_head import CSRAHead
from trmml.method.heads.image_head import MEANS_BATCH, ImageHead
from trmml.method.heads.stacking import Stacking
from trmml.method.interface import (
    MultiLabelModel,
    Output,
    Targets,
    known_positive_share,
    lacking_negatives,
    matrix_weights,
    pair_weights,
)
from trmml.method.matching import Matching
from trmml.method.prompts import BakedPrompts, PromptLearner, build_prompts
from trmml.method.prototypes import Prototypes
from trmml.method.regions import RegionAttention, gather_regions
from trmml.settings.sections import LossSettings, Settings

# Numbers in the region features that are made at a time: 16 MiB, so that they stay in the cache.
MAX_FLOATS = 2**22
# Pictures looked at together before the first step: with thousands of categories they take room.
START_BATCH = 32


@dataclass(frozen=True)
class Heads:
    """The opinions beside the match, and what joins them; None where one is switched off."""

    image: ImageHead | None
    csra: CSRAHead | None
    stacking: Stacking | None
    settings: Settings


class TRMML(MultiLabelModel):
    """Text-region matching: prompts -> text features, regions -> region features, match one to one.

    Built from parts, in the order of the paper's figure; `build_trmml` makes them from settings.

    Shapes: Features of B images -> Output with logits (B, C).
    Trains: what its parts train; nothing of the encoder.
    """

    text_features: Tensor  # (C, D), set by `bake`
    negative_text_features: Tensor  # (C, D), set by `bake`
    weak: Tensor  # (C), weight of blanks as negatives
    share: Tensor  # (C), of positives among the known training labels
    matching: Matching

    def __init__(
        self,
        *,
        project: Callable[[Tensor], Tensor],
        prompts: PromptLearner | BakedPrompts,
        negative_prompts: PromptLearner | None,
        regions: RegionAttention,
        matching: Matching,
        prototypes: Prototypes,
        heads: Heads,
        losses: LossSettings,
    ) -> None:
        super().__init__()
        self._project = project  # the frozen encoder's; a bound method is no submodule
        self.prompts = prompts
        self.negative_prompts = negative_prompts
        self.regions = regions
        self.matching = matching
        self.prototypes = prototypes
        self.image_head, self.csra_head = heads.image, heads.csra
        self.stacking = heads.stacking
        settings = heads.settings
        self._stacking = settings.stacking
        self._rates = {"csra_head.": settings.csra_head.rate_factor}
        self._training = settings.training
        self.losses = losses
        self._start_scale = float(matching.log_scale.detach().exp())
        self._start_attention = float(regions.log_scale.detach().exp())
        self.register_buffer("text_features", torch.zeros_like(prompts.start_features))
        self.register_buffer("negative_text_features", torch.zeros_like(prompts.start_features))
        self.register_buffer("weak", torch.zeros(len(prompts.start_features)))
        self.register_buffer("share", torch.full((len(prompts.start_features),), 0.5))
        self.baked = False

    @property
    def learns_from_unanswered(self) -> bool:
        """Only pseudo-labels say anything of them; without, hours over most of a photo library."""
        return self.losses.pseudo > 0

    def texts(self) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C D"]]:
        """Positive and negative text features; the latter are zero without a negative prompt."""
        if self.baked and not self.training:
            return self.text_features, self.negative_text_features
        text: Tensor = self.prompts()
        negative = self.negative_prompts
        return text, torch.zeros_like(text) if negative is None else negative()

    def forward(
        self,
        features: Features,
        new_text: Float[Tensor, "K D"] | None = None,
        new_negative: Float[Tensor, "K D"] | None = None,
    ) -> Output:
        """Match every category's region with its text.

        Args:
            features: of B images.
            new_text: unit-length text features of K names that were not trained; their logits
                come behind those of the C trained ones, with the mean of the learned biases.
            new_negative: their negative prompts, where the model has such.
        """
        hidden = features.hidden_patches
        patches = self._project(hidden)
        text, negative = self.texts()
        anchors, extra = self.prompts.start_features, 0
        biases: Tensor = self.matching.bias
        if new_text is not None:
            extra = len(new_text)
            anchors, text = torch.cat([anchors, new_text]), torch.cat([text, new_text])
            plain = torch.zeros_like(new_text) if new_negative is None else new_negative
            negative = torch.cat([negative, plain])
            biases = torch.cat([biases, biases.mean().expand(extra)])
        regions = self.regions(hidden, patches, anchors, extra)
        match_logits = self.matching(regions.match(text - negative), biases)
        teaches = self.training and self.losses.distillation > 0
        dense, teacher = None, None
        # The frozen opinion counts nothing before it was weighed, after training.
        if teaches or (
            self.stacking is not None and self._stacking.zero_shot and not self.training
        ):
            dense = self.dense_logits(patches)
        if teaches and dense is not None:
            teacher = self.frozen_logits(dense, features.image_feature)
        logits, head_logits = match_logits, self._head_logits(features, match_logits, dense)
        if self.stacking is not None:
            known = self.stacking(list(head_logits.values()))
            logits = torch.cat([known, match_logits[:, len(self.weak) :]], dim=1)
        return Output(
            logits=logits,
            regions=regions,
            match_logits=match_logits,
            head_logits=head_logits,
            text_features=text,
            teacher=teacher,
        )

    def _head_logits(
        self,
        features: Features,
        match_logits: Float[Tensor, "B K"],
        dense: Float[Tensor, "B C"] | None,
    ) -> dict[str, Float[Tensor, "B C"]]:
        """What each branch says of the trained categories, the match first."""
        found = {"match": match_logits[:, : len(self.weak)]}
        if self.image_head is not None:
            found |= self.image_head(features.hidden_patches.mean(dim=1))
        if self.csra_head is not None:
            found["csra"] = self.csra_head(features)
        if self._stacking.zero_shot and dense is not None and not self.training:
            found["zero_shot"] = dense
        return found

    @torch.no_grad()
    def dense_logits(self, patches: Float[Tensor, "B P D"]) -> Float[Tensor, "B C"]:
        """The frozen model's dense cosines, scaled."""
        text = self.prompts.start_features
        scale = torch.tensor(self._start_attention, device=text.device)
        return self._start_scale * gather_regions(text, patches, patches, scale).match(text)

    @torch.no_grad()
    def frozen_logits(
        self, dense: Float[Tensor, "B C"], image_feature: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C"]:
        """The frozen model's own logits: mean of image cosine and dense cosine, scaled."""
        text = self.prompts.start_features
        return (dense + self._start_scale * image_feature @ text.T) / 2

    def loss_terms(self, output: Output, targets: Targets) -> dict[str, Tensor]:
        """`classification`, `pseudo`, `distillation`, `contrastive`, and the CSRA head's."""
        settings, logits = self.losses, output.match_logits
        assert logits is not None
        labels = targets.labels & targets.known
        # Where a category lacks known negatives, blanks count as weak ones, pseudo-labels apart.
        weights = pair_weights(targets, settings.weak_negative * self.weak)
        terms = {"classification": self._asymmetric(logits, labels, weights)}
        if "csra" in output.head_logits:
            known = pair_weights(targets, self.weak)
            terms["csra"] = weighted_bce(output.head_logits["csra"], labels, known)
        if settings.pseudo > 0:
            terms["pseudo"] = self._asymmetric(
                logits, targets.pseudo_labels, targets.pseudo.float()
            )
        if settings.distillation > 0 and output.teacher is not None:
            terms["distillation"] = distillation(
                logits - self.matching.bias,
                output.teacher,
                settings.distillation_temperature,
            )
        if settings.contrastive > 0:
            terms["contrastive"] = self._contrast(output, targets)
        return terms

    def learn_first(
        self,
        means: Callable[[], Float[Tensor, "V N W"]],
        matrix: LabelMatrix,
        progress: Progress | None = None,
    ) -> None:
        """Train the image branch, from nothing; no step of the loop changes it."""
        if self.image_head is not None:
            self.image_head.learn(means(), matrix, self._training, progress)

    def learn_again(
        self,
        means: Callable[[], Float[Tensor, "V N W"]],
        matrix: LabelMatrix,
        progress: Progress | None = None,
    ) -> None:
        """Train the image branch anew where that is set; its opinions keep their scale."""
        branch = self.image_head
        if branch is None or not branch.settings.learn_again:
            return
        pooled = means()
        before = self._said_of(pooled[0])
        branch.learn(pooled, matrix, self._training, progress)
        if self.stacking is not None:
            # Mean and spread were measured on held-out images, which are none any more.
            for number, (name, after) in enumerate(self._said_of(pooled[0]).items(), start=1):
                self.stacking.rescale(number, before[name], after)  # the match is number 0

    @torch.no_grad()
    def _said_of(self, pooled: Float[Tensor, "N W"]) -> dict[str, Float[Tensor, "N C"]]:
        """The opinions of the image branch, in eval mode."""
        assert self.image_head is not None
        branch = self.image_head.eval()
        device = branch.standard.mean.device
        parts = [branch(part.to(device).float()) for part in torch.split(pooled, MEANS_BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _contrast(self, output: Output, targets: Targets) -> Tensor:
        """The contrastive term; regions are made of the categories that have an anchor."""
        assert output.regions is not None and output.text_features is not None
        positive = (targets.labels & targets.known) | (targets.pseudo_labels & targets.pseudo)
        image, category = draw_anchors(positive)
        made, place = torch.unique(category, return_inverse=True)
        return contrastive_loss(
            output.regions.features(made)[image, place],
            category,
            output.text_features,
            F.normalize(self.prototypes.visual_positive, dim=-1),
            temperature=self.losses.contrastive_temperature,
        )

    def _asymmetric(
        self, logits: Float[Tensor, "B C"], labels: Bool[Tensor, "B C"], weights: Tensor
    ) -> Tensor:
        settings = self.losses
        return asymmetric_loss(
            logits,
            labels,
            weights,
            gamma_negative=settings.gamma_negative,
            gamma_positive=settings.gamma_positive,
            clip=settings.clip,
        )

    def loss_weights(self) -> dict[str, float]:
        """Each opinion's own classification counts 1; the others as set."""
        settings = self.losses
        return {
            "classification": 1.0,
            "csra": 1.0,
            "pseudo": settings.pseudo,
            "distillation": settings.distillation,
            "contrastive": settings.contrastive,
        }

    def fast_parameters(self) -> list[str]:
        """Scales and biases: few numbers that must travel far."""
        return [
            "regions.log_scale",
            "matching.log_scale",
            "matching.bias",
            "csra_head.mean.bias",
        ]

    def rate_factors(self) -> dict[str, float]:
        """Each branch learns at a rate of its own."""
        return dict(self._rates)

    @torch.no_grad()
    def start(self, features: Features, matrix: LabelMatrix) -> None:
        """Set the biases to the known shares of positives, and mark one-sided categories."""
        self.weak.copy_(lacking_negatives(matrix))
        share = known_positive_share(matrix)
        self.share.copy_(share)
        if self.csra_head is not None:
            self.csra_head.start(features, share)
        if not self.matching.bias.requires_grad:
            return
        training = self.training
        self.eval()
        text, negative = self.texts()
        anchors, total = self.prompts.start_features, torch.zeros(len(text), device=text.device)
        for hidden in torch.split(features.hidden_patches, START_BATCH):
            regions = self.regions(hidden, self._project(hidden), anchors)
            total += regions.match(text - negative).sum(dim=0)
        self.train(training)
        self.matching.start_bias(total / len(features), share.to(text))

    @torch.no_grad()
    def begin_epoch(self) -> None:
        """Find each category's rivals, which the evidence for pseudo-labels compares with."""
        if self.losses.pseudo > 0:
            self.prototypes.choose_rivals(self.texts()[0])

    @torch.no_grad()
    def observe(
        self, output: Output, targets: Targets, *, evidence: bool
    ) -> Float[Tensor, "B C"] | None:
        """Update the prototypes from known pairs; return their evidence for every pair if asked."""
        if self.stacking is not None:
            self.stacking.track(list(output.head_logits.values()))
        evidence = evidence and self.losses.pseudo > 0
        if self.losses.pseudo == 0 == self.losses.contrastive:
            return None  # nobody asks the prototypes
        assert output.regions is not None and output.text_features is not None
        regions, weighed = output.regions, []
        wanted = torch.ones_like(targets.known[0]) if evidence else targets.known.any(dim=0)
        images, size = len(targets.known), output.text_features.shape[1]
        for part in torch.split(wanted.nonzero()[:, 0], max(1, MAX_FLOATS // (images * size))):
            made = regions.features(part)  # (B, k, D)
            self.prototypes.update(made, targets.labels[:, part], targets.known[:, part], part)
            if evidence:
                weighed.append(self.prototypes.evidence(made, output.text_features, part))
        return torch.cat(weighed, dim=1) if weighed else None

    @torch.no_grad()
    def settle(self, outputs: Iterable[Output], matrix: LabelMatrix) -> None:
        """Measure the opinions on the held-out images, and weigh them by their labels."""
        if self.stacking is None:
            return
        found = [torch.stack(list(output.head_logits.values())).cpu() for output in outputs]
        opinions = torch.cat(found, dim=1).float()
        device = self.stacking.mean.device
        self.stacking.cpu().measure(opinions)
        if self._stacking.fit_weights:
            # Blanks are negatives where they were in training, not where nothing is held out.
            weights = matrix_weights(matrix, self.weak.cpu())
            self.stacking.fit_weights(opinions, matrix.labels.float(), weights, self.share.cpu())
        self.stacking.to(device)

    @torch.no_grad()
    def bake(self) -> None:
        """Compute the text features once; in eval mode they are then used as they are."""
        self.baked = False
        text, negative = self.texts()
        self.text_features.copy_(text)
        self.negative_text_features.copy_(negative)
        self.baked = True


def build_trmml(
    encoder: Encoder,
    identity: EncoderIdentity,
    category_names: Sequence[str],
    settings: Settings,
) -> TRMML:
    """The method from its parts, for one encoder and one list of categories."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    categories = len(category_names)

    prompts, negative = build_prompts(encoder, category_names, settings.prompts, generator)
    with torch.random.fork_rng(devices=[]):  # random starts must not depend on what ran before
        torch.manual_seed(settings.training.seed)
        regions = RegionAttention(
            categories=categories,
            feature_size=identity.feature_size,
            hidden_size=identity.hidden_size,
            settings=settings.regions,
        )
        heads = build_heads(categories, identity.hidden_size, settings)
    return TRMML(
        project=encoder.project,
        prompts=prompts,
        negative_prompts=negative,
        regions=regions,
        matching=Matching(categories=categories, settings=settings.matching),
        prototypes=Prototypes(
            categories=categories,
            feature_size=identity.feature_size,
            settings=settings.prototypes,
        ),
        heads=heads,
        losses=settings.losses,
    )


def build_heads(categories: int, hidden_size: int, settings: Settings) -> Heads:
    """The opinions beside the match, where they are switched on."""
    sizes = {"categories": categories, "hidden_size": hidden_size}
    image, csra = settings.image_head, settings.csra_head
    learned = image.use * (1 + image.linear) + csra.use
    weights = [1.0] * (1 + learned) + [0.0] * settings.stacking.zero_shot
    return Heads(
        image=ImageHead(**sizes, settings=image) if image.use else None,
        csra=CSRAHead(**sizes, settings=csra) if csra.use else None,
        stacking=Stacking(categories=categories, weights=weights) if len(weights) > 1 else None,
        settings=settings,
    )
