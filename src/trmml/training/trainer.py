"""The steps of training, on Lightning Fabric, for TRM-ML and the baselines alike.

Everything random in a step comes from (seed, step), so a run that was killed continues to the
same weights, bit for bit on a CPU, from whichever state was written last.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict

import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor

from trmml.errors import TrainingError
from trmml.features import ranks
from trmml.features.base import Features, FeatureSource, Progress
from trmml.features.views import joined
from trmml.labels.matrix import LabelMatrix
from trmml.labels.statistics import scorable
from trmml.method.interface import MultiLabelModel, Targets, predict
from trmml.metrics.average_precision import average_precisions
from trmml.settings.sections import TrainingSettings
from trmml.training.average import averaged, move_average, trained_weights
from trmml.training.gradients import gradient_shares, warn_of_outweighing
from trmml.training.heads import mean_patches, train_image_head
from trmml.training.record import EpochRecord
from trmml.training.schedule import hold_out, learning_rate, parameter_groups
from trmml.training.state import TrainingState

# Images that `MultiLabelModel.init_from_labels` gets.
START_IMAGES = 256
# How far apart the random numbers of two processes begin, in batches.
RANK_STEP = 1_000_000_007


class Trainer(TrainingState):
    """The steps that move the state of a training run; `loop.py` calls them.

    Args:
        model: on the CPU; moved to the device of `fabric`.
        source: features of all N images, with as many views as are trained on or scored.
        matrix: labels of all N images.
        truth: complete labels, only to report how right pseudo-labels are; never trained on.
        training: of the run.
        fabric: device and precision, of this process.
        whole: whether all images are trained on, and none is held out.
    """

    def __init__(
        self,
        *,
        model: MultiLabelModel,
        source: FeatureSource,
        matrix: LabelMatrix,
        truth: LabelMatrix | None,
        training: TrainingSettings,
        fabric: Fabric,
        whole: bool = False,
    ) -> None:
        self.model, self.source, self.matrix, self.truth = model, source, matrix, truth
        self.training, self.fabric = training, fabric
        self.scored = joined(source, training.scored_views)
        self.kept, self.held = hold_out(matrix, training.held_out_share, training.seed)
        if whole:
            self.kept, self.held = torch.arange(len(matrix)), self.held[:0]
        if not model.learns_from_unanswered:
            self.kept = self.kept[matrix.known[self.kept].any(dim=1)]
        self.batches = math.ceil(len(self.kept) / training.batch_size)
        self.steps = math.ceil(self.batches / training.accumulate) * training.epochs
        model.to(fabric.device)
        ranks.copy_first(model)
        # Where training begins again when the best epoch is known.
        self.start = {n: v.cpu().clone() for n, v in model.state_dict().items()}
        start = source.batch(self.some_kept).to(fabric.device)
        model.init_from_labels(start, matrix.subset(self.kept))
        ranks.copy_first(model)
        groups = parameter_groups(model, training)
        optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=0.0)
        self.wrapped, self.optimizer = fabric.setup(model, optimizer)
        self.average = trained_weights(model)
        self.epoch = self.batch = self.step = 0
        self.totals, self.records = {}, []
        self.pseudo_labeller = model.pseudo_labeller(matrix, self.held, training.epochs)
        self.best, self.best_record, self.gradient_shares = {}, {}, {}
        self.best_aps = [math.nan] * matrix.labels.shape[1]

    @property
    def some_kept(self) -> Int[Tensor, " M"]:
        """At most `START_IMAGES` of the images that are trained on, spread over all."""
        count = min(START_IMAGES, len(self.kept))
        return self.kept[torch.linspace(0, len(self.kept) - 1, count).long()]

    # One epoch ------------------------------------------------------------------------------

    def run_epoch(self) -> Iterator[None]:
        """Train one epoch, yielding after every batch, when the state may be written."""
        training = self.training
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + self.epoch)
        order = self.kept[torch.randperm(len(self.kept), generator=generator)]
        views = torch.randint(training.views, (len(order),), generator=generator)
        if self.batch == 0:
            self.model.begin_epoch()
        parts = list(
            zip(
                torch.split(order, training.batch_size),
                torch.split(views, training.batch_size),
                strict=True,
            )
        )
        # The next batch is read while this one trains.
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._fetch, *parts[self.batch])
            while self.batch < self.batches:
                features = waiting.result()
                if self.batch + 1 < self.batches:
                    waiting = pool.submit(self._fetch, *parts[self.batch + 1])
                self._train_batch(parts[self.batch][0], features)
                self.batch += 1
                yield

    def _fetch(self, indices: Int[Tensor, " B"], views: Int[Tensor, " B"]) -> Features:
        """Features of this process's images of a batch, pinned where a card will copy them."""
        features = self.source.batch(ranks.share(indices), ranks.share(views))
        if self.fabric.device.type != "cuda" or features.image_feature.is_cuda:
            return features
        return Features(features.hidden_patches.pin_memory(), features.image_feature.pin_memory())

    def _train_batch(self, indices: Int[Tensor, " B"], features: Features) -> None:
        training = self.training
        for group in self.optimizer.param_groups:
            rate = learning_rate(self.step, self.steps, training)
            group["lr"] = rate * group["factor"]
        features = features.to(self.fabric.device)
        targets = self._targets(ranks.share(indices))
        devices = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            number = self.epoch * self.batches + self.batch + ranks.number() * RANK_STEP
            torch.manual_seed(training.seed * 1_000_003 + number)
            output = self.wrapped(features)
            terms = self.model.loss_terms(output, targets)
        weights = self.model.loss_weights()
        loss = sum((weights[name] * value for name, value in terms.items()), torch.tensor(0.0))
        self._count(terms, weights, len(indices), loss)
        if self.batch == 0:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.gradient_shares = gradient_shares(terms, weights, trained, self.fabric)
        first = self.batch // training.accumulate * training.accumulate
        self.fabric.backward(loss / min(training.accumulate, self.batches - first))
        labeller = self.pseudo_labeller
        asked = labeller is not None and labeller.gathers(self.epoch)
        evidence = self.model.after_step(output, targets, evidence=asked)
        if labeller is not None and evidence is not None:
            labeller.gather(indices, ranks.joined(evidence))
        if (self.batch + 1) % training.accumulate == 0 or self.batch + 1 == self.batches:
            self._optimizer_step()

    def _optimizer_step(self) -> None:
        training = self.training
        ranks.average_gradients(self.model.parameters())
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=training.clip_norm, error_if_nonfinite=False
        )
        # In fp16 an overflow is usual: the scaler then skips the step and lowers its scale.
        if norm is not None and not norm.isfinite() and training.precision != "16-mixed":
            raise TrainingError(
                f"the gradient is not finite at epoch {self.epoch + 1}, batch {self.batch + 1},"
                f" after losses {self._mean_losses()}; lower training.learning_rate, or use"
                " training.precision=32-true"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        horizon = training.average_share * self.steps
        move_average(self.average, self.model, step=self.step, horizon=horizon)

    def _targets(self, indices: Int[Tensor, " B"]) -> Targets:
        device, rows = self.fabric.device, self.matrix.subset(indices)
        labels, known = rows.labels.to(device), rows.known.to(device)
        if self.pseudo_labeller is None:
            return Targets(labels, known, torch.zeros_like(known), torch.zeros_like(known))
        pseudo = self.pseudo_labeller.labels
        guessed, chosen = pseudo.labels[indices].to(device), pseudo.chosen[indices].to(device)
        return Targets(labels, known, guessed, chosen)

    def _count(
        self, terms: dict[str, Tensor], weights: dict[str, float], images: int, loss: Tensor
    ) -> None:
        """Add to the epoch's totals; stop at the first loss that is not finite."""
        values = {name: float(ranks.mean(value.detach())) for name, value in terms.items()}
        if not math.isfinite(float(ranks.mean(loss.detach()))):
            named = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingError(
                f"the loss is not finite at epoch {self.epoch + 1}, batch {self.batch + 1}:"
                f" {named}; lower training.learning_rate, or use training.precision=32-true"
            )
        for name, value in {**values, "images": 1.0}.items():
            self.totals[name] = self.totals.get(name, 0.0) + images * value

    def _mean_losses(self) -> dict[str, float]:
        """Mean of each term over the images of this epoch so far."""
        images = self.totals["images"]
        return {name: value / images for name, value in self.totals.items() if name != "images"}

    def close_epoch(self, seconds: float) -> EpochRecord:
        """Score the held-out labels, keep the best weights, choose the next pseudo-labels."""
        training, images = self.training, self.totals["images"]
        losses = self._mean_losses()
        weights = self.model.loss_weights()
        aps = self.held_out_aps()
        scored = aps[aps.isfinite()]
        error = float(scored.std() / math.sqrt(len(scored))) if len(scored) > 1 else math.nan
        self._keep_best(self.epoch + 1, aps)
        record = EpochRecord(
            epoch=self.epoch + 1,
            epochs=training.epochs,
            step=self.step,
            seconds=seconds,
            images_per_second=images / max(seconds, 1e-9),
            seconds_left=self._seconds_left(seconds),
            learning_rate=learning_rate(max(0, self.step - 1), self.steps, training),
            losses=losses,
            weighted={name: weights[name] * value for name, value in losses.items()},
            held_out_map=float(scored.mean()),
            held_out_error=error,
            held_out_categories=len(scored),
            gradient_shares=self.gradient_shares,
            pseudo=self._pseudo_counts(),
        )
        if len(self.held):  # training again on all images would say the same again
            warn_of_outweighing(record, self.records)
        self.records.append(asdict(record))
        self.epoch, self.batch, self.totals = self.epoch + 1, 0, {}
        if self.pseudo_labeller is not None:
            self.pseudo_labeller.choose()
        return record

    def _seconds_left(self, seconds: float) -> float:
        """For the other epochs, and for training again on all images, by what this one took.

        That goes up to the best epoch, which is known when the last one is done.
        """
        left = self.training.epochs - self.epoch - 1
        if not self.training.refit or not len(self.held):
            return seconds * left
        again = self.training.epochs if left else int(self.best_record["epoch"])
        return seconds * (left + again * (1 + len(self.held) / len(self.kept)))

    def held_out_aps(self) -> Float[Tensor, " C"]:
        """AP per category over the held-out known labels, with the averaged weights.

        nan without a known positive, and where a category is not `scorable`.
        """
        if not len(self.held):
            return torch.full((self.matrix.labels.shape[1],), torch.nan)
        with self.averaged():
            logits = self.predict_held_out()
        held = self.matrix.subset(self.held)
        aps = average_precisions(logits, held.labels, held.known)
        return torch.where(scorable(held, self.matrix), aps, torch.nan)

    def predict_held_out(self) -> Float[Tensor, "H C"]:
        """Logits of the held-out images.

        Raises:
            TrainingError: one is nan or infinite.
        """
        mine = ranks.share(self.held) if len(self.held) >= ranks.count() else self.held
        logits = predict(self.model, self.scored, mine, device=self.fabric.device)
        logits = logits if len(mine) == len(self.held) else ranks.joined(logits)
        if not logits.isfinite().all():
            raise TrainingError(
                f"after step {self.step} not every logit of the held-out images is finite; lower"
                " training.learning_rate, or use training.precision=32-true. Before the first"
                " step it is the encoder's features that are not"
            )
        return logits

    @torch.no_grad()
    def fit_on_held_out(self) -> None:
        """Show the held-out images to the trained model once; `held_logits` calibrate it."""
        device = self.fabric.device
        parts = torch.split(self.held, self.training.batch_size)
        outputs = (self.model(self.scored.batch(part).to(device)) for part in parts)
        self.model.fit_on_held_out(outputs, self.matrix.subset(self.held))
        self.held_logits = self.predict_held_out()
        self.held_log_odds = self.model.gives_log_odds

    @property
    def has_stalled(self) -> bool:
        """Whether held-out mAP has not risen for as many epochs as patience lasts."""
        patience = self.training.patience
        maps = [record["held_out_map"] for record in self.records]
        if not patience or len(maps) <= patience or not all(map(math.isfinite, maps)):
            return False
        return bool(max(maps[-patience:]) <= max(maps[:-patience]))

    def averaged(self) -> AbstractContextManager[None]:
        """The model with averaged weights inside the block, with its own ones after it."""
        return averaged(self.model, self.average)

    def begin(self, progress: Progress | None = None) -> None:
        """Before the first epoch: what learns from means; then the start is the one to beat."""
        image, neighbours = self.model.separate_head(), self.model.neighbour_head()
        if image is not None or neighbours is not None:
            source, matrix = self.source.subset(self.kept.tolist()), self.matrix.subset(self.kept)
            views, scored = self.training.views, self.training.scored_views
            read = views if neighbours is None else self.training.encoded_views
            pooled = mean_patches(source, read, progress)
            if image is not None:
                train_image_head(image, pooled[:views], matrix, self.training, progress)
            if neighbours is not None:
                neighbours.remember(pooled[:scored].float().mean(dim=0), matrix)
            ranks.copy_first(self.model)
        self._keep_best(0, self.held_out_aps())

    def _keep_best(self, epoch: int, aps: Float[Tensor, " C"]) -> None:
        """Keep these weights unless the best epoch so far is better by more than chance.

        Chance is the standard error of the mean difference in AP, category by category. Few known
        labels make the best of many epochs mostly luck, and the schedule is made to end well, so
        a tie goes to the later epoch. Where nothing can be scored the last epoch is kept; a single
        category tells no chance, so any drop of its AP counts.
        """
        if self.training.choose_epoch == "held-out" and self.best:
            drop = torch.tensor(self.best_aps, dtype=torch.float64) - aps
            drop = drop[drop.isfinite()]
            chance = drop.std() / math.sqrt(len(drop)) if len(drop) > 1 else torch.tensor(0.0)
            if len(drop) and drop.mean() > chance:
                return
        best = torch.tensor(self.best_aps, dtype=torch.float64).nanmean()
        if not self.best or not aps.nanmean() < best:
            self.best_aps = aps.tolist()
        self.best_record = {"epoch": epoch, "held_out_map": float(aps.nanmean())}
        with self.averaged():
            self.best = {n: v.detach().cpu().clone() for n, v in self.model.state_dict().items()}

    def _pseudo_counts(self) -> dict[str, float | int]:
        if self.pseudo_labeller is None or not self.pseudo_labeller.labels.chosen.any():
            return {}
        nothing = torch.zeros_like(self.matrix.known)
        truth = self.truth or LabelMatrix(nothing, nothing)
        return self.pseudo_labeller.labels.right_share(truth)
