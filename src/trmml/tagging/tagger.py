"""Tag pictures with a trained run: probabilities, thresholds, region maps, new names."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trmml.encoders import load_encoder
from trmml.encoders.base import Encoder, freeze
from trmml.encoders.speed.precision import SAMPLES, EncodeImage, image_encoder, resolve_precision
from trmml.errors import ConfigError
from trmml.features.base import Features
from trmml.features.loader import (
    LOOKED_AT,
    Batch,
    Picture,
    card_decoding_holds,
    prepared,
    sample_pixels,
    shortcut_holds,
    view_of,
)
from trmml.features.views import encode_looks
from trmml.images import find_images
from trmml.method.prompts import encode_templates
from trmml.method.trmml import TRMML, TRMMLOutput
from trmml.metrics.calibration import Calibration
from trmml.settings.choices import OnBadImage
from trmml.storage.hashes import ContentHashes
from trmml.tagging.region_maps import write_maps
from trmml.training.fabric import pick_device
from trmml.training.run_folder import RunCard, load_card, load_model

logger = logging.getLogger(__name__)

# Pictures from which checking ways to decode is repaid: some are decoded and encoded twice.
REPAID_FROM = 24


@dataclass(frozen=True)
class Tag:
    """One category that a picture shows.

    Attributes:
        category: its name.
        probability: calibrated, in [0, 1].
        threshold: the probability from which it counts as present.
    """

    category: str
    probability: float
    threshold: float


@dataclass(frozen=True)
class TaggedImage:
    """A picture and its tags, the most probable first.

    Attributes:
        path: as it was given.
        tags: those chosen.
        error: why the picture could not be read, or None.
        maps: files of the region maps, where asked for.
    """

    path: Path
    tags: tuple[Tag, ...] = ()
    error: str | None = None
    maps: tuple[Path, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; `maps` and `error` are there only where they say something."""
        tags = [
            {
                "category": tag.category,
                "probability": round(tag.probability, 6),
                "threshold": round(tag.threshold, 6),
            }
            for tag in self.tags
        ]
        tree: dict[str, Any] = {"image": str(self.path), "tags": tags}
        if self.maps:
            tree["maps"] = [str(path) for path in self.maps]
        return tree if self.error is None else {**tree, "error": self.error}


@dataclass(frozen=True)
class Scores:
    """What a tagger says of a batch.

    Attributes:
        probabilities: calibrated.
        attention: over patches, one map per category, rows sum to 1.
    """

    probabilities: Float[Tensor, "B K"]
    attention: Float[Tensor, "B K P"]


class Tagger:
    """A trained model with its frozen encoder, calibration and thresholds.

    Args:
        model: baked, in eval mode.
        encoder: frozen, on the same device.
        card: of the run.
        device: of both.
        also: names of further categories, recognised by their name alone.
    """

    def __init__(
        self,
        *,
        model: TRMML,
        encoder: Encoder,
        card: RunCard,
        device: str = "cpu",
        also: Sequence[str] = (),
    ) -> None:
        self.model, self.encoder, self.card, self.device = model, encoder, card, device
        training = card.settings.training
        self.views, self.seed = training.scored_views, training.seed
        self._ways = dict[str, EncodeImage]()  # of the encoder, by precision
        self.category_names = (*card.category_names, *also)
        if len(set(self.category_names)) < len(self.category_names):
            twice = [name for name in also if self.category_names.count(name) > 1]
            raise ConfigError(f"{twice[0]!r} is a category already; leave it out of --also")
        self._new_text: Tensor | None = None
        self._new_negative: Tensor | None = None
        if also:
            prompts = card.settings.prompts
            templates = [prompts.template, *filter(None, [prompts.negative_template])]
            self._new_text, *negatives = encode_templates(encoder, templates, also)
            self._new_negative = negatives[0] if negatives else None
        self.calibration = _extended(card.calibration, card.new_categories, len(also))

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        encoder: Encoder | str | None = None,
        device: str = "cpu",
        also: Sequence[str] = (),
    ) -> "Tagger":
        """Load a run folder.

        Args:
            run: made by `fit`.
            encoder: the one it was trained on, or what `load_encoder` takes to load it; as the
                run's card says when None.
            device: "auto", "cpu", "cuda", ...
            also: names of further categories to recognise, without training.

        Raises:
            CheckpointError: no finished run there, or another encoder.
            EncoderError: the run does not say which encoder it needs.
        """
        run, device = Path(run), pick_device(device)
        card = load_card(run)
        spec = card.encoder_spec if encoder is None else encoder
        if spec is None:
            raise ConfigError(
                f"{run} was trained on an encoder object ({card.encoder.name}), which cannot be"
                " loaded by name; pass the encoder"
            )
        if isinstance(spec, str):
            spec = load_encoder(spec, image_size=card.encoder.size, text=bool(also))
        freeze(spec)
        if isinstance(spec, nn.Module):
            spec.to(device)
        model = load_model(run, spec, card).to(device)
        return cls(model=model, encoder=spec, card=card, device=device, also=also)

    def output(self, features: Features) -> TRMMLOutput:
        """What the model says of encoded pictures: logits, new names last, and regions."""
        output: TRMMLOutput = self.model(features, self._new_text, self._new_negative)
        return output

    @torch.no_grad()
    def score(self, features: Features) -> Scores:
        """Calibrated probabilities and region maps of encoded pictures, on the CPU."""
        output = self.output(features.to(self.device))
        probabilities = self.calibration.probabilities(output.logits.double().cpu())
        attention = output.attention.float().cpu()
        if self.views > 1:  # the plain picture's patches come first; only they have a place in it
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
        """Tags of each picture, in the order given.

        Args:
            images: files.
            top: at most so many tags a picture, whatever their probability; with a threshold,
                only those above it.
            threshold: one probability for all categories; by default each category has its own,
                learned from held-out known labels.
            explain: a folder for one region map per tag.
            precision: of the encoder, one of `encoders.precision.PRECISIONS` or "auto".
            on_bad_image: stop at an unreadable picture, or yield it with its `error`.

        Raises:
            DataError: an unreadable picture under "error".
        """
        if not self.card.chosen.get("calibrated", True):
            logger.warning(
                "no absent label was held out to calibrate on; probabilities rank, but are too low"
                " where blanks hide labels, and raw where nothing was held out."
            )
        if top is not None and top < 1:
            raise ConfigError(f"expected top to be at least 1, got {top}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"expected a threshold from 0 to 1, got {threshold}")
        folder = None if explain is None else Path(explain)
        paths = [Path(image) for image in images]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        stems = _distinct_stems(paths)
        precision = resolve_precision(
            precision,
            self.encoder,
            self.card.encoder,
            self.device,
            pictures=len(paths),
            samples=lambda: sample_pixels(paths, self.encoder, SAMPLES),
        )
        encode = self._way(precision)
        first = paths[:LOOKED_AT] if len(paths) >= REPAID_FROM else []
        reduced = shortcut_holds(first, self.encoder, encode, self.device)
        on_card = card_decoding_holds(first, self.encoder, encode, self.device)
        batches = prepared(
            self._pictures(paths),
            self.encoder,
            device=self.device,
            reduced=bool(reduced),
            on_card=bool(on_card),
            on_bad_image=on_bad_image,
            keep_images=folder is not None,
        )
        unreadable = 0
        for batch, features in encode_looks(batches, encode, self.views, self.device):
            unreadable += len(batch.bad)
            scores = None if features is None else self.score(features)
            yield from self._tagged(batch, scores, paths, stems, top, threshold, folder)
        warn_left_out(unreadable, len(paths))

    def _pictures(self, paths: Sequence[Path]) -> list[Picture]:
        """All views of each picture; crops are seeded by its content, as when training."""
        if self.views == 1:
            return [Picture(path) for path in paths]
        hashes, pictures = ContentHashes(None), list[Picture]()
        for path in paths:
            try:
                content = hashes.look_up(path)
            except OSError:  # decoding it will tell
                content = ""
            pictures += [view_of(path, content, self.seed, view) for view in range(self.views)]
        return pictures

    def _way(self, precision: str) -> EncodeImage:
        """The encoder in a precision; made once, for int8 reads a file as large as the encoder."""
        if precision not in self._ways:
            made = image_encoder(self.encoder, precision, self.device, self.card.encoder)
            self._ways[precision] = made
        return self._ways[precision]

    def _tagged(
        self,
        batch: Batch,
        scores: Scores | None,
        paths: list[Path],
        stems: list[str],
        top: int | None,
        threshold: float | None,
        folder: Path | None,
    ) -> Iterator[TaggedImage]:
        """The pictures of a batch with their tags, in the order they were asked for."""
        found = dict[int, TaggedImage]()
        for number, reason in batch.bad.items():
            found[number] = TaggedImage(paths[number], error=reason)
        if scores is not None:
            limits = self.thresholds(threshold).tolist()
            chosen = self.choose(scores.probabilities, top=top, threshold=threshold)
            for row, number in enumerate(batch.numbers):
                tags = tuple(Tag(self.category_names[c], p, limits[c]) for c, p in chosen[row])
                maps: list[Path] = []
                if folder is not None:
                    attention = scores.attention[row, [c for c, _ in chosen[row]]]
                    names = [tag.category for tag in tags]
                    grid, stem = self.card.encoder.grid, folder / stems[number]
                    maps = write_maps(batch.images[row], attention, names, grid, stem)
                found[number] = TaggedImage(paths[number], tags, maps=tuple(maps))
        for number in sorted(found):
            yield found[number]

    def choose(
        self, probabilities: Float[Tensor, "B K"], *, top: int | None, threshold: float | None
    ) -> list[list[tuple[int, float]]]:
        """Of each picture the categories to report, the most probable first, with probability."""
        values, order = probabilities.sort(dim=1, descending=True, stable=True)
        keep = torch.ones_like(order, dtype=torch.bool)
        if top is None or threshold is not None:
            keep = values >= self.thresholds(threshold)[order]
        keep[:, top:] = keep[:, top:] & (top is None)
        counts = keep.sum(dim=1).tolist()
        longest = max(counts, default=0)
        # Thresholds differ, so what is kept need not stand at the front: move it there.
        places = (~keep).sort(dim=1, stable=True).indices[:, :longest]
        categories, kept = order.gather(1, places).tolist(), values.gather(1, places).tolist()
        return [
            list(zip(row[:count], some[:count], strict=True))
            for row, some, count in zip(categories, kept, counts, strict=True)
        ]

    def thresholds(self, threshold: float | None = None) -> Float[Tensor, " K"]:
        """Probability from which each category counts as present."""
        own = self.calibration.thresholds
        return own if threshold is None else torch.full_like(own, threshold)


def _extended(trained: Calibration, new: Calibration, extra: int) -> Calibration:
    """The calibration of the trained categories, then `extra` times that of a new name."""
    return Calibration(
        slope=torch.cat([trained.slope, new.slope.expand(extra)]),
        offset=torch.cat([trained.offset, new.offset.expand(extra)]),
        thresholds=torch.cat([trained.thresholds, new.thresholds.expand(extra)]),
    )


def _distinct_stems(paths: Sequence[Path]) -> list[str]:
    """A file stem per picture; pictures of one name in several folders get a number."""
    seen: set[str] = set()
    stems = []
    for path in paths:
        stem, count = path.stem, 1
        while stem in seen:
            count += 1
            stem = f"{path.stem}-{count}"
        seen.add(stem)
        stems.append(stem)
    return stems


def warn_left_out(unreadable: int, images: int) -> None:
    """Log how many images could not be read, if any."""
    if unreadable:
        logger.warning("%d of %d images cannot be read and were left out", unreadable, images)


def tag(
    run: Path | str,
    images: Sequence[Path | str],
    *,
    encoder: Encoder | str | None = None,
    device: str = "cpu",
    also: Sequence[str] = (),
    top: int | None = None,
    threshold: float | None = None,
    explain: Path | str | None = None,
    precision: str = "fp32",
    on_bad_image: OnBadImage = "error",
) -> list[TaggedImage]:
    """Tags of the images that files, folders and patterns stand for.

    Arguments and errors are those of `Tagger.load` and `Tagger.tag`. Under "skip" a path that
    stands for nothing comes back as an image with an error, too.

    Example:
        >>> for image in tag("runs/photos", ["holiday/*.jpg"]):  # doctest: +SKIP
        ...     print(image.path, [found.category for found in image.tags])
    """
    paths = find_images(images, keep_missing=on_bad_image == "skip")
    tagger = Tagger.load(run, encoder=encoder, device=device, also=also)
    tagged = tagger.tag(
        paths,
        top=top,
        threshold=threshold,
        explain=explain,
        precision=precision,
        on_bad_image=on_bad_image,
    )
    return list(tagged)
