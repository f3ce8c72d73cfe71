"""Tag images with a run: by its kept ONNX file where that does all that is asked, else by torch."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trmml.deploy.kept import KeptPrecision, keep, open_kept
from trmml.image_search import find_images
from trmml.settings.choices import OnBadImage
from trmml.tagging.tags import Choice, TaggedImage

if TYPE_CHECKING:
    from trmml.encoders.base import Encoder

logger = logging.getLogger(__name__)

# Images from which a card, or measuring the fastest precision, repays the start of torch.
TORCH_FROM = 500


def tag(
    run: Path | str,
    images: Sequence[Path | str],
    *,
    encoder: "Encoder | str | None" = None,
    device: str = "cpu",
    also: Sequence[str] = (),
    trust: bool = False,
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
        ...     print(image.path, [tag.category for tag in image.tags])
    """
    return list(
        tag_each(
            run,
            images,
            encoder=encoder,
            device=device,
            also=also,
            trust=trust,
            top=top,
            threshold=threshold,
            explain=explain,
            precision=precision,
            on_bad_image=on_bad_image,
        )
    )


def tag_each(
    run: Path | str,
    images: Sequence[Path | str],
    *,
    encoder: "Encoder | str | None" = None,
    device: str = "cpu",
    also: Sequence[str] = (),
    trust: bool = False,
    top: int | None = None,
    threshold: float | None = None,
    explain: Path | str | None = None,
    precision: str = "fp32",
    on_bad_image: OnBadImage = "error",
) -> Iterator[TaggedImage]:
    """What `tag` returns, image after image; the run is loaded before the first is asked for."""
    choice = Choice(top, threshold)
    paths = find_images(images, keep_missing=on_bad_image == "skip")
    if (device, precision) == ("auto", "int8"):
        device = "cpu"  # the only place that has it
    if explain is not None:
        from trmml.tagging.region_maps import without_maps

        paths = without_maps(paths, explain)
    plain = encoder is None and not also and explain is None
    wanted = _on_processor(device, precision, len(paths)) if plain else None
    kept = None if wanted is None else open_kept(Path(run), wanted)
    if kept is None:
        from trmml.tagging.tagger import Tagger  # torch takes seconds to import

        tagger = Tagger.load(run, encoder=encoder, device=device, also=also, trust=trust)
        precision = tagger.best_precision(precision, paths)
        if plain and precision == "int8" and tagger.frozen.device == "cpu":
            kept = open_kept(Path(run), "int8")
    if kept is not None:
        logger.info("tagging by ONNX Runtime, with the kept file of %s", run)
        return kept.tag(paths, choice, on_bad_image=on_bad_image)
    logger.info("tagging by torch")
    tagged = tagger.tag(
        paths,
        top=top,
        threshold=threshold,
        explain=explain,
        precision=precision,
        on_bad_image=on_bad_image,
    )
    return tagged if wanted is None else _then_keep(tagged, Path(run))


def _on_processor(device: str, precision: str, images: int) -> KeptPrecision | None:
    """What of the kept files is asked for, or is as good as what "auto" finds; None for torch."""
    if device not in ("cpu", "auto"):
        return None
    if precision == "int8":
        return "int8"
    few = images < TORCH_FROM and precision in ("fp32", "auto")
    return "fp32" if few or (device, precision) == ("cpu", "fp32") else None


def _then_keep(tagged: Iterator[TaggedImage], run: Path) -> Iterator[TaggedImage]:
    """The same images; after the last one the run is exported for the next call."""
    yield from tagged
    keep(run)
