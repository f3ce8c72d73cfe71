"""The whole picture as a second opinion beside the regions; beyond the paper, and an option."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trmml.config import ImageBranchSettings, TrainingSettings
from trmml.features import Progress
from trmml.labels import LabelMatrix
from trmml.losses import weighted_bce
from trmml.model import known_positive_share, lacking_negatives
from trmml.schedule import learning_rate

# A channel whose spread is a smaller share of the mean spread than this is as good as constant.
LEAST_CHANNEL = 1e-3


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
    def measure(self, values: Float[Tensor, "N W"]) -> None:
        """Take mean and spread from these."""
        self.mean.copy_(values.mean(dim=0))
        spread = values.std(dim=0) if len(values) > 1 else torch.ones_like(self.spread)
        self.spread.copy_(spread.clamp(min=LEAST_CHANNEL * float(spread.mean()) + 1e-9))


class ImageBranch(nn.Module):
    """Opinions on the whole picture, of the mean hidden patch: two layers, and one linear map.

    h = standard(root(mean_p h_p)),  root(x) = sign(x) sqrt(|x|)
    image = W2 ReLU(W1 h) + b2,  linear = W h + b

    The root keeps the few strongest channels of a map that is mostly zero from ruling the rest
    (Perronnin et al. 2010, section 3.1: power normalisation). The hidden layer is shared by all
    categories: what one of them learns of the pictures serves those with few known labels. The
    linear map errs elsewhere, so that both together beat either.

    A mean is far cheaper than the map it was taken of, so the branch learns apart from the rest:
    before the first epoch, from many passes over the means of all pictures. Then it stays, unless
    `learn_again` is set: at the end it learns anew, from the held-out pictures as well.

    Shapes: mean hidden patches (B, W) -> logits (B, C) by name of the opinion.
    Trains, in `learn` alone: W1 (W -> M), W2 (M -> C), W (W -> C), b, b2; W2 and W start at zero.
    """

    def __init__(self, *, categories: int, hidden_size: int, settings: ImageBranchSettings) -> None:
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
        rooted = self.standard(_root(pooled))
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
        but the data, each with a rate of its own.

        Args:
            pooled: mean hidden patches of V views of N images.
            matrix: their labels.
            training: seed, weight decay, and the shape of the schedule.
            progress: told ("whole picture", done, total) after each pass, in images.
        """
        device = self.standard.mean.device
        views, images = pooled.shape[:2]
        blank = lacking_negatives(matrix)
        weights = (matrix.known + blank * ~matrix.known).to(device)
        labels = (matrix.labels & matrix.known).to(device)
        optimizer, rates = self._optimizer(training)
        steps, step = self.settings.epochs * -(-images // self.settings.batch_size), 0
        generator = torch.Generator().manual_seed(training.seed)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(training.seed)
            self.start(pooled.flatten(0, 1).to(device), known_positive_share(matrix))
            self.requires_grad_(True).train()
            for epoch in range(self.settings.epochs):
                order = torch.randperm(images, generator=generator)
                for part in torch.split(order, self.settings.batch_size):
                    share = learning_rate(step, steps, training) / training.learning_rate
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = share * rate
                    view = torch.randint(views, (len(part),), generator=generator)
                    found = self(pooled[view, part].to(device, torch.float32))
                    terms = [weighted_bce(o, labels[part], weights[part]) for o in found.values()]
                    torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
                    step += 1
                if progress is not None:
                    progress("whole picture", (epoch + 1) * images, self.settings.epochs * images)
            self.requires_grad_(False)

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
        self.standard.measure(_root(pooled.float()))
        self.into.reset_parameters()
        for layer in (self.out, self.linear):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                layer.bias.copy_(positive_share.to(layer.bias).logit())


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with bias that starts at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _root(values: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
    """Signed square root; without gradient, for the encoder is frozen."""
    return values.sign() * values.abs().sqrt()
