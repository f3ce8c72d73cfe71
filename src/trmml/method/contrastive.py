"""Contrast: regions of one category together, beside its prototype and text; others apart."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trmml.features import ranks
from trmml.method.interface import Targets
from trmml.method.regions import Regions

# More anchors than this are drawn down to it: the contrastive term's cost grows with the square.
MAX_ANCHORS = 1024


def contrast_regions(
    regions: Regions,
    targets: Targets,
    text_features: Float[Tensor, "C D"],
    visual_prototypes: Float[Tensor, "C D"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """The contrastive term of a batch; only categories that have an anchor get their regions made.

    Anchors are the regions of known positives and of pseudo-positives.

    Args:
        regions: of all categories.
        targets: labels and pseudo-labels.
        text_features: unit length.
        visual_prototypes: any length; zero where a category has none yet.
        temperature: in (0, 1].
    """
    positive = (targets.labels & targets.known) | (targets.pseudo_labels & targets.pseudo)
    image, category = draw_anchors(positive)
    made, place = torch.unique(category, return_inverse=True)
    return contrastive_loss(
        ranks.gathered(regions.features(made)[image, place]),
        ranks.gathered(category.float()).long(),
        text_features,
        F.normalize(visual_prototypes, dim=-1),
        temperature=temperature,
    )


def draw_anchors(
    positive: Bool[Tensor, "B C"],
) -> tuple[Int[Tensor, " A"], Int[Tensor, " A"]]:
    """Image and category of the regions to contrast: all, or MAX_ANCHORS by torch's stream."""
    image, category = positive.nonzero(as_tuple=True)
    most = MAX_ANCHORS // ranks.count()
    if len(image) <= most:
        return image, category
    kept = torch.randperm(len(image))[:most].to(image.device)
    return image[kept], category[kept]


def contrastive_loss(
    anchors: Float[Tensor, "A D"],
    category: Int[Tensor, " A"],
    text_features: Float[Tensor, "C D"],
    visual_prototypes: Float[Tensor, "C D"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Multimodal contrastive loss over the regions of known and pseudo-positives.

    Pulled near each anchor: the other anchors of its category, its category's visual prototype
    and text feature. Pushed away: the same three of every other category. InfoNCE with several
    positives: the mean over them of -log softmax.

    Args:
        anchors: region features, unit length.
        category: of each anchor.
        text_features: unit length.
        visual_prototypes: unit length, or zero where a category has none yet; no gradient.
        temperature: in (0, 1].

    Returns:
        0, with a finite gradient, when there is no anchor.

    Source: method.md section 2.7; the averaging over positives is Khosla et al. 2020, equation 2.
    """
    if len(anchors) == 0:
        return anchors.sum() * 0
    has_prototype = visual_prototypes.norm(dim=-1) > 0
    candidates = torch.cat([anchors, text_features, visual_prototypes.detach()])
    similarity = anchors @ candidates.T / temperature  # (A, A + 2 C)
    names = torch.arange(len(text_features), device=category.device)
    same = category[:, None] == torch.cat([category, names, names])
    itself = torch.eye(len(anchors), dtype=torch.bool, device=same.device)
    absent = (~has_prototype).expand(len(anchors), -1)
    left_out = torch.cat([itself, torch.zeros_like(absent), absent], dim=1)
    log_share = similarity.masked_fill(left_out, float("-inf")).log_softmax(dim=-1)
    pulled = same & ~left_out  # never empty: an anchor's own text is always there
    return -(log_share.masked_fill(~pulled, 0).sum(dim=1) / pulled.sum(dim=1)).mean()
