"""Tag images by the ONNX file of a run: no torch is imported, so one image is tagged at once."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trmml.errors import DataError
from trmml.images import read_image
from trmml.settings.choices import OnBadImage
from trmml.storage.sessions import cores, open_session
from trmml.tagging.scorer import Scored, prepared
from trmml.tagging.tags import Choice, Tag, TaggedImage, warn_left_out, warn_uncalibrated

# What the file says of itself stands under this key of its metadata, as JSON.
METADATA_KEY = "trmml"
BATCH = 32


class OnnxTagger:
    """A run as `export` wrote it, with part "all"; a `Scorer` as well.

    Args:
        path: of the file.
    """

    by, ahead, feature_size = "onnxruntime", False, 0

    def __init__(self, path: Path) -> None:
        threads = os.environ.get("OMP_NUM_THREADS", "")  # which torch follows as well
        self._session = open_session(path, int(threads) if threads.isdecimal() else cores())
        self._about = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
        self.thresholds = np.array(self._about["thresholds"])
        self.category_names: list[str] = self._about["category_names"]
        self.grid: tuple[int, int] = tuple(self._about["grid"])

    def tag(
        self, paths: Sequence[Path], choice: Choice, *, on_bad_image: OnBadImage
    ) -> Iterator[TaggedImage]:
        """Tags of each image, in the order given, as `Tagger.tag` has them.

        Raises:
            DataError: an unreadable image under "error".
        """
        warn_uncalibrated(self._about["calibrated"])
        unreadable = 0
        with ThreadPoolExecutor(max(2, cores()), thread_name_prefix="decode") as pool:
            for start in range(0, len(paths), BATCH):
                part = paths[start : start + BATCH]
                tagged = self._tagged(part, list(pool.map(partial(prepared, self), part)), choice)
                bad = [image.error for image in tagged if image.error is not None]
                if bad and on_bad_image == "error":
                    raise DataError(bad[0])
                unreadable += len(bad)
                yield from tagged
        warn_left_out(unreadable, len(paths))

    def score(self, prepared: Sequence[UInt8[np.ndarray, "S S 3"]]) -> Scored:
        """See `Scorer`."""
        probabilities, maps = self._session.run(None, {"image": np.stack(prepared)})
        return Scored(probabilities, None, maps.reshape(*maps.shape[:2], -1))

    def prepare(self, source: Path | bytes, name: str = "the image") -> UInt8[np.ndarray, "S S 3"]:
        """See `Scorer`."""
        image = read_image(source, at_least=self._about["at_least"], name=name)
        return squashed(image, self._about["size"], self._about["interpolation"])

    def _tagged(
        self,
        paths: Sequence[Path],
        images: Sequence[UInt8[np.ndarray, "S S 3"] | DataError],
        choice: Choice,
    ) -> list[TaggedImage]:
        """A batch of images with their tags, or with their errors."""
        good = [image for image in images if not isinstance(image, DataError)]
        chosen: list[tuple[Tag, ...]] = []
        if good:
            chosen = choice.tags(
                self.score(good).probabilities, self.thresholds, self.category_names
            )
        tags = iter(chosen)
        return [
            TaggedImage(path, error=str(image))
            if isinstance(image, DataError)
            else TaggedImage(path, next(tags))
            for path, image in zip(paths, images, strict=True)
        ]


def squashed(image: Image.Image, size: int, interpolation: str) -> UInt8[np.ndarray, "S S 3"]:
    """An RGB image of any size as an exported file takes it; the filter by its name in Pillow."""
    return np.array(image.resize((size, size), Image.Resampling[interpolation.upper()]))
