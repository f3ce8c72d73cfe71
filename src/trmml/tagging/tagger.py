"""Tag images with a trained run: probabilities, thresholds, region maps, new categories."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.encoders.base import Encoder
from trmml.encoders.frozen import FrozenEncoder
from trmml.encoders.needed import needed_encoder
from trmml.encoders.speed.precision import in_precision
from trmml.errors import ConfigError
from trmml.features.base import Features
from trmml.features.decoding import (
    Decoding,
    ImageView,
    drawn_reduced_holds,
    is_large,
    on_card_holds,
    view_of,
)
from trmml.features.loader import best_precision, load_batches
from trmml.features.views import EncodedBatch, encode_views
from trmml.method.prompts import encode_templates
from trmml.method.trmml import TRMML, TRMMLOutput
from trmml.metrics.calibration import Calibration
from trmml.settings.choices import OnBadImage
from trmml.storage.hashes import ContentHashes
from trmml.tagging.region_maps import MapFolder
from trmml.tagging.tags import Choice, Tag, TaggedImage, warn_left_out, warn_uncalibrated
from trmml.training.fabric import pick_device
from trmml.training.run_folder import RunCard, load_card, load_model

# Images from which checking ways to decode is repaid: some are decoded and encoded twice.
REPAID_FROM = 24


@dataclass(frozen=True)
class Scores:
    """Scores of a batch of images.

    Attributes:
        probabilities: calibrated.
        attention: over patches, one map per category, rows sum to 1.
    """

    probabilities: Float[Tensor, "B K"]
    attention: Float[Tensor, "B K P"]


class Tagger:
    """A trained model with its frozen encoder, calibration and thresholds.

    Args:
        model: with its text features frozen, in eval mode, on the encoder's device.
        frozen: the encoder.
        card: of the run.
        new_categories: names of further categories, recognised by their name alone.
    """

    def __init__(
        self,
        *,
        model: TRMML,
        frozen: FrozenEncoder,
        card: RunCard,
        new_categories: Sequence[str] = (),
    ) -> None:
        self.model, self.frozen, self.card, self.device = model, frozen, card, frozen.device
        training = card.settings.training
        self.views, self.seed = training.scored_views, training.seed
        self._by_precision = {frozen.precision: frozen}
        self.category_names = (*card.category_names, *new_categories)
        if not all(name.strip() for name in new_categories):
            raise ConfigError("a name in --also is blank; name a category, as 'zebra crossing'")
        if len(set(self.category_names)) < len(self.category_names):
            twice = [name for name in new_categories if self.category_names.count(name) > 1]
            raise ConfigError(f"{twice[0]!r} is a category already; name it once, or not in --also")
        self._new_text: Tensor | None = None
        self._new_negative: Tensor | None = None
        if new_categories:
            prompts = card.settings.prompts
            templates = [prompts.template, *filter(None, [prompts.negative_template])]
            texts = encode_templates(frozen.encoder, templates, new_categories)
            self._new_text, *negatives = texts
            self._new_negative = negatives[0] if negatives else None
        self.calibration = _extended(card.calibration, card.new_categories, len(new_categories))

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        encoder: Encoder | str | None = None,
        device: str = "cpu",
        also: Sequence[str] = (),
        trust: bool = False,
    ) -> "Tagger":
        """Load a run folder.

        Args:
            run: made by `fit`.
            encoder: the one it was trained on, or what `load_encoder` takes to load it; as the
                run's card says when None.
            device: "auto", "cpu", "cuda", ...
            also: names of further categories to recognise, without training.
            trust: whether a factory that the run's card names may run; see docs/security.md.

        Raises:
            CheckpointError: no finished run there, another encoder, or one that is code.
            EncoderError: the run does not say which encoder it needs.
        """
        run, device = Path(run), pick_device(device)
        card = load_card(run)
        frozen = needed_encoder(
            run, card.encoder_spec, encoder, name=card.encoder.name, size=card.encoder.size,
            trust=trust, text=bool(also), device=device,
        )  # fmt: skip
        model = load_model(run, frozen, card).to(device)
        frozen = replace(frozen, identity=card.encoder)  # also of texts, which may not be loaded
        return cls(model=model, frozen=frozen, card=card, new_categories=also)

    def output(self, features: Features) -> TRMMLOutput:
        """The model's output for encoded images: logits, new categories last, and regions."""
        output: TRMMLOutput = self.model(features, self._new_text, self._new_negative)
        return output

    @torch.no_grad()
    def score(self, features: Features) -> Scores:
        """Calibrated probabilities and region maps of encoded images, on the CPU."""
        output = self.output(features.to(self.device))
        probabilities = self.calibration.probabilities(output.logits.double().cpu())
        attention = output.attention.float().cpu()
        if self.views > 1:  # the plain image's patches come first; only they have a place in it
            plain = attention[:, :, : self.card.encoder.patches]
            attention = plain / plain.sum(dim=2, keepdim=True)
        return Scores(probabilities, attention)

    def tag(
        self,
        images: Sequence[Path | str],
        *,
        top: int | None = None,
        threshold: float | None = None,
        explain: Path | str | None = None,
        precision: str = "fp32",
        on_bad_image: OnBadImage = "error",
    ) -> Iterator[TaggedImage]:
        """Tags of each image, in the order given.

        Args:
            images: files.
            top: at most so many tags an image, whatever their probability; with a threshold,
                only those above it.
            threshold: one probability for all categories; by default each category has its own,
                learned from held-out known labels.
            explain: a folder for one region map per tag.
            precision: of the encoder, one of `encoders.speed.precision.PRECISIONS` or "auto".
            on_bad_image: stop at an unreadable image, or yield it with its `error`.

        Raises:
            DataError: an unreadable image under "error".
        """
        choice = Choice(top, threshold)
        warn_uncalibrated(self.card.chosen.get("calibrated", True))
        paths = [Path(image) for image in images]
        maps = None if explain is None else MapFolder(explain, paths, self.card.encoder.grid)
        frozen = self._in_precision(self.best_precision(precision, paths))
        batches = load_batches(
            self._image_views(paths),
            frozen,
            self._decoding(paths, frozen),
            on_bad_image=on_bad_image,
            keep_images=maps is not None,
        )
        unreadable = 0
        for batch in encode_views(batches, frozen, self.views):
            tagged = {n: TaggedImage(paths[n], error=reason) for n, reason in batch.bad.items()}
            unreadable += len(tagged)
            for number, tags, files in self._tags(batch, choice, maps):
                tagged[number] = TaggedImage(paths[number], tags, maps=files)
            yield from (tagged[number] for number in sorted(tagged))
        warn_left_out(unreadable, len(paths))

    def _image_views(self, paths: Sequence[Path]) -> list[ImageView]:
        """All views of each image; crops are seeded by its content, as when training."""
        if self.views == 1:
            return [ImageView(path) for path in paths]
        hashes, views = ContentHashes(None), list[ImageView]()
        for path in paths:
            try:
                content = hashes.look_up(path)
            except OSError:  # decoding it will raise the error
                content = ""
            views += [view_of(path, content, self.seed, view) for view in range(self.views)]
        return views

    def best_precision(self, precision: str, paths: Sequence[Path]) -> str:
        """What "auto" stands for with these images; any other precision is given back."""
        return best_precision(precision, paths, self.frozen)

    def _in_precision(self, precision: str) -> FrozenEncoder:
        """The encoder in a precision; made once, for int8 reads a file as large as the encoder."""
        if precision not in self._by_precision:
            self._by_precision[precision] = in_precision(self.frozen, precision)
        return self._by_precision[precision]

    def _decoding(self, paths: Sequence[Path], frozen: FrozenEncoder) -> Decoding:
        """The shortcuts to take; what checks them is repaid by a large image, or by many."""
        many = len(paths) >= REPAID_FROM
        large = many or any(is_large(path, self.card.encoder.size) for path in paths)
        on_card = many and bool(on_card_holds(paths, frozen))
        return Decoding(reduced=large and self.reduced, on_card=on_card)

    @cached_property
    def reduced(self) -> bool:
        """Whether large JPEGs are decoded smaller, in every call and by the run's ONNX file."""
        return drawn_reduced_holds(self.frozen)

    def _tags(
        self, batch: EncodedBatch, choice: Choice, maps: MapFolder | None
    ) -> Iterator[tuple[int, tuple[Tag, ...], tuple[Path, ...]]]:
        """Position, tags and files of region maps of each readable image in a batch."""
        if batch.features is None:
            return
        scores = self.score(batch.features)
        names, own = self.category_names, self.thresholds().numpy()
        chosen = choice.tags(scores.probabilities.numpy(), own, names)
        for row, (number, tags) in enumerate(zip(batch.numbers, chosen, strict=True)):
            files: tuple[Path, ...] = ()
            if maps is not None:
                shown = [tag.category for tag in tags]
                attention = scores.attention[row, [names.index(name) for name in shown]]
                files = maps.write(number, batch.images[row], attention, shown)
            yield number, tags, files

    def thresholds(self, threshold: float | None = None) -> Float[Tensor, " K"]:
        """Probability from which each category counts as present."""
        own = self.calibration.thresholds
        return own if threshold is None else torch.full_like(own, threshold)


def _extended(trained: Calibration, new: Calibration, extra: int) -> Calibration:
    """The calibration of the trained categories, then `extra` times that of a new category."""
    return Calibration(
        slope=torch.cat([trained.slope, new.slope.expand(extra)]),
        offset=torch.cat([trained.offset, new.offset.expand(extra)]),
        thresholds=torch.cat([trained.thresholds, new.thresholds.expand(extra)]),
    )
