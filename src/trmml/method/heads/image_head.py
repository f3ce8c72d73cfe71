"""The whole picture as a second opinion beside the regions; beyond the paper, and an option."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.errors import TrainingError
from trmml.features.base import Progress
from trmml.labels.matrix import LabelMatrix
from trmml.method.classification import weighted_bce
from trmml.method.interface import known_positive_share, lacking_negatives, matrix_weights
from trmml.settings.sections import ImageHeadSettings, TrainingSettings
from trmml.training.schedule import LEAST_STEPS, learning_rate

# A channel whose spread is a smaller share of the mean spread than this is as good as constant.
LEAST_CHANNEL = 1e-3
# Principal directions of less variance than this are taken to have it (the mean is 1).
LEAST_VARIANCE = 1e-2
# Mean patches looked at together: those of many pictures are kept in half precision.
MEANS_BATCH = 1024


class Standardisation(nn.Module):
    """Channels with mean 0 and spread 1, as measured on training pictures before the first step.

    Shapes: (..., W) -> (..., W).
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    def forward(self, values: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
        """Standardised values."""
        return (values - self.mean) / self.spread

    @torch.no_grad()
    def measure(self, parts: Iterable[Float[Tensor, "N W"]]) -> None:
        """Take mean and spread from the rows of all parts."""
        count, total = 0, torch.zeros(len(self.mean), dtype=torch.float64)
        squares = torch.zeros_like(total)
        for part in parts:
            values = part.cpu().double()  # not every device has double precision
            count += len(values)
            total += values.sum(dim=0)
            squares += values.square().sum(dim=0)
        mean = total / count
        variance = (squares - count * mean.square()).clamp(min=0) / max(1, count - 1)
        spread = variance.sqrt() if count > 1 else torch.ones_like(total)
        self.mean.copy_(mean)
        self.spread.copy_(spread.clamp(min=LEAST_CHANNEL * float(spread.mean()) + 1e-9))


class ImageHead(nn.Module):
    """Logits of the whole image, from the mean hidden patch: two layers, and one linear map.

    h = T standard(root(mean_p h_p)),  root(x) = sign(x) sqrt(|x|)
    image = W2 ReLU(W1 h) + b2,  linear = W h + b
    T = k U diag(v^p) U',  U diag(v) U' = covariance of standard(root(.)) over all pictures

    The root keeps the few strongest channels of a map that is mostly zero from ruling the rest
    (Perronnin et al. 2010, section 3.1: power normalisation). The hidden layer is shared by all
    categories: what one of them learns of the pictures serves those with few known labels. The
    linear map errs elsewhere, so that both together beat either.

    T is what pictures without a label say of the features. Early in training, or held by weight
    decay, a linear map prefers directions of much variance; p above 0 (`spectrum_power`) makes it
    do so more, below 0 less, and -0.5 is whitening. Which is right depends on whether pictures
    mostly differ in what their labels name. k keeps the mean variance at 1; at the end T is
    multiplied into W1 and W, so that tagging knows nothing of it.

    A mean is far cheaper than the map it was taken of, so the branch learns apart from the rest:
    before the first epoch, from many passes over the means of all pictures. Then it stays, unless
    `learn_again` is set: at the end it learns anew, from the held-out pictures as well.

    Shapes: mean hidden patches (B, W) -> logits (B, C) by name of the opinion.
    Trains, in `learn` alone: W1 (W -> M), W2 (M -> C), W (W -> C), b, b2; W2 and W start at zero.
    """

    def __init__(self, *, categories: int, hidden_size: int, settings: ImageHeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.standard = Standardisation(hidden_size)
        self.into = nn.Linear(hidden_size, settings.width, bias=False)
        self.out = zero_linear(settings.width, categories)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = zero_linear(hidden_size, categories) if settings.linear else None
        self.requires_grad_(False)  # nothing for the loop to train

    def forward(self, pooled: Float[Tensor, "B W"]) -> dict[str, Float[Tensor, "B C"]]:
        """Unbounded logits."""
        return self._head_logits(self.standard(signed_root(pooled)))

    def _head_logits(self, rooted: Float[Tensor, "B W"]) -> dict[str, Float[Tensor, "B C"]]:
        hidden = F.relu(self.into(self.dropout(rooted)))
        found = {"image": self.out(self.dropout(hidden))}
        if self.linear is not None:
            found["linear"] = self.linear(self.dropout(rooted))
        return found

    def learn(
        self,
        pooled: Float[Tensor, "V N W"],
        matrix: LabelMatrix,
        training: TrainingSettings,
        progress: Progress | None = None,
    ) -> None:
        """Learn by binary cross-entropy over known pairs, from a random view of each picture.

        Blanks count as negatives where a category lacks known ones. Two parts that share nothing
        but the data, each with a rate of its own. Pictures of which nothing is known take no part.

        Args:
            pooled: mean hidden patches of V views of N images.
            matrix: their labels.
            training: seed, weight decay, and the shape of the schedule.
            progress: told ("whole picture", done, total) after each pass, in images.

        Raises:
            TrainingError: the loss is not finite.
        """
        device = self.standard.mean.device
        blank = lacking_negatives(matrix)
        told = matrix.known.any(dim=1).nonzero()[:, 0]
        if not len(told):
            return  # there is nothing to learn from
        batches = math.ceil(len(told) / self.settings.batch_size)
        passes = max(self.settings.epochs, math.ceil(LEAST_STEPS / batches))
        optimizer, rates = self._optimizer(training)
        steps, step = passes * batches, 0
        generator = torch.Generator().manual_seed(training.seed)
        devices = [device] if device.type == "cuda" else []
        # In fp16 gradients could vanish without a scaler, so half is bf16 here.
        half = torch.autocast(device.type, torch.bfloat16, enabled=training.precision != "32-true")
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(training.seed)
            self.start(pooled.flatten(0, 1), known_positive_share(matrix))
            turn = self._turn(pooled.flatten(0, 1)) if self.settings.spectrum_power else None
            self.requires_grad_(True).train()
            for done in range(1, passes + 1):
                order = told[torch.randperm(len(told), generator=generator)]
                for part in torch.split(order, self.settings.batch_size):
                    share = learning_rate(step, steps, training) / training.learning_rate
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = share * rate
                    view = torch.randint(len(pooled), (len(part),), generator=generator)
                    means = pooled[view, part].to(device, torch.float32)
                    rooted = self.standard(signed_root(means))
                    with half:
                        found = self._head_logits(rooted if turn is None else rooted @ turn)
                    loss = _loss(found, matrix.rows(part), blank)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
                    step += 1
                if not loss.isfinite():  # and never is again once it was not
                    raise TrainingError(
                        f"the loss of the whole picture is {loss.item():g} after pass {done} of"
                        f" {passes}; lower image_head.learning_rate and"
                        " image_head.linear_rate, or set image_head.use=false"
                    )
                if progress is not None:
                    progress("whole picture", done * len(told), passes * len(told))
            self.requires_grad_(False).eval()
        if turn is not None:
            self._take_in(turn)

    @torch.no_grad()
    def _take_in(self, turn: Float[Tensor, "W W"]) -> None:
        """Move the turn of the input into the weights; it is symmetric."""
        for layer in (self.into, self.linear):
            if layer is not None:
                layer.weight.copy_(layer.weight @ turn)

    def _optimizer(self, training: TrainingSettings) -> tuple[torch.optim.AdamW, list[float]]:
        """Weights, with decay, and biases, without and faster; the highest rate of each group."""
        layers = [(self.settings.learning_rate, self.out, [self.into.weight, self.out.weight])]
        if self.linear is not None:
            layers.append((self.settings.linear_rate, self.linear, [self.linear.weight]))
        groups, rates = list[dict[str, Any]](), list[float]()
        for rate, last, weights in layers:
            groups.append({"params": weights, "weight_decay": training.weight_decay})
            groups.append({"params": [last.bias], "weight_decay": 0.0})
            rates += [rate, training.fast_factor * rate]
        return torch.optim.AdamW(groups), rates

    @torch.no_grad()
    def start(self, pooled: Float[Tensor, "N W"], positive_share: Float[Tensor, " C"]) -> None:
        """Measure the standardisation, and start anew: biases at the known shares of positives."""
        device = self.standard.mean.device
        parts = torch.split(pooled, MEANS_BATCH)
        self.standard.measure(signed_root(part.to(device).float()) for part in parts)
        self.into.reset_parameters()
        for layer in (self.out, self.linear):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                layer.bias.copy_(positive_share.to(layer.bias).logit())

    @torch.no_grad()
    def _turn(self, pooled: Float[Tensor, "N W"]) -> Float[Tensor, "W W"]:
        """T: each principal direction of the standardised means by its variance to the power p."""
        device = self.standard.mean.device
        total = torch.zeros(len(self.standard.mean), len(self.standard.mean), dtype=torch.float64)
        for part in torch.split(pooled, MEANS_BATCH):
            rooted = self.standard(signed_root(part.to(device).float()))
            total += (rooted.T @ rooted).cpu()  # not every device has double precision
        variance, directions = torch.linalg.eigh(total / len(pooled))
        variance = variance.clamp(min=LEAST_VARIANCE * float(variance.mean()))
        scale = variance**self.settings.spectrum_power
        scale /= (scale.square() * variance).mean().sqrt()
        turn: Tensor = (directions * scale) @ directions.T
        return turn.to(device, torch.float32)


def _loss(
    found: Mapping[str, Float[Tensor, "B C"]], rows: LabelMatrix, blank: Float[Tensor, " C"]
) -> Tensor:
    """Sum of the opinions' own losses; a blank is a negative of the category's weight."""
    terms = []
    for opinion in found.values():
        labels = (rows.labels & rows.known).to(opinion.device)
        weights = matrix_weights(rows, blank).to(opinion.device)
        terms.append(weighted_bce(opinion.float(), labels, weights))
    return torch.stack(terms).sum()


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with bias that starts at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def signed_root(values: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
    """Signed square root; without gradient, for the encoder is frozen."""
    return values.sign() * values.abs().sqrt()
