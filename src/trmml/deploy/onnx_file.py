"""Write a trained run as one ONNX file that tags without torch, and check it against torch."""

import json
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trmml.deploy.onnx_graph import Intake, Subject
from trmml.encoders.base import Encoder
from trmml.encoders.speed.onnx import OPSET, trace
from trmml.errors import ConfigError, DataError, EncoderError
from trmml.features.decoding import REDUCED_MARGIN
from trmml.image_search import find_images
from trmml.images import read_image
from trmml.settings.choices import ExportPart
from trmml.storage.atomic import refuse_other
from trmml.storage.drafts import draft_folder
from trmml.storage.sessions import open_session
from trmml.synthetic import draw_scene
from trmml.tagging.onnx_tagger import METADATA_KEY
from trmml.tagging.tagger import Tagger

# Of what stands under `METADATA_KEY` in the file's metadata.
FORMAT = 1
# How that entry begins in the file: the first field, its length, the key, and the second field.
_ENTRY = b"\n" + bytes([len(METADATA_KEY)]) + METADATA_KEY.encode() + b"\x12"
# Largest difference from torch, of any probability and of any cell of a region map.
TOLERANCE = 1e-4
# protobuf holds no message of 2 GiB; the graph itself takes well under 64 MiB.
ONE_FILE_BYTES = 2**31 - 2**26
# Images drawn for the check, beside those given and one of noise; and images per pass.
SCENES = 4
BATCH = 4
# Passes that are timed, torch and ONNX Runtime in turn.
ROUNDS = 3


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: of the file.
        part: "all" takes images, "head" takes hidden patches.
        categories: names, in the order of the outputs.
        opset: version of ONNX's operators.
        size_bytes: of the file, and of the weights beside it where they do not fit in.
        external_data: the file with those weights, or None.
        checked_images: how many it was compared on.
        max_deviation: of any probability or cell of a region map from torch.
        images_per_second: of "onnxruntime" and "torch" on this processor, in batches of 4; what
            reads and resizes the images is not counted.
    """

    path: Path
    part: ExportPart
    categories: tuple[str, ...]
    opset: int
    size_bytes: int
    external_data: Path | None
    checked_images: int
    max_deviation: float
    images_per_second: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {
            "path": str(self.path),
            "part": self.part,
            "categories": list(self.categories),
            "opset": self.opset,
            "size_bytes": self.size_bytes,
            "external_data": None if self.external_data is None else str(self.external_data),
            "checked_images": self.checked_images,
            "max_deviation": self.max_deviation,
            "images_per_second": {k: round(v, 2) for k, v in self.images_per_second.items()},
        }


def export(
    run: Path | str,
    out: Path | str,
    *,
    part: ExportPart = "all",
    encoder: Encoder | str | None = None,
    trust: bool = False,
    also: Sequence[str] = (),
    check: Sequence[Path | str] = (),
) -> Exported:
    """Write a run as an ONNX file, once ONNX Runtime has given the same numbers as torch.

    "all" takes `image`, uint8 (B, S, S, 3): RGB images that Pillow squashed to S x S pixels with
    the filter that the metadata name. "head" takes `hidden_patches`, float32 (B, P, W). Both give
    `probabilities` (B, K), calibrated, and `region_maps` (B, K, rows, columns), which sum to 1 over
    the patches. B is free. The metadata `trmml` hold, as JSON, what a user needs besides: category
    names, thresholds, grid, encoder, resizing.

    Args:
        run: folder of a finished run.
        out: the file to write; one of an earlier export is replaced. Beyond 2 GiB the weights go
            into a second file beside it, `<out>.data`.
        part: the whole tagger, or what follows the encoder.
        encoder: the one the run was trained on, or its name; see `Tagger.load`.
        trust: see `Tagger.load`.
        also: names of further categories, recognised by their name alone.
        check: images to compare on (files, folders, patterns), besides drawn ones and noise.

    Raises:
        CheckpointError: no finished run there, or another encoder.
        EncoderError: the encoder cannot be exported, or the file and torch differ;
            nothing is written then.
        ConfigError: the file cannot be written there.
        DataError: an image to check on cannot be read, or another file is there.
    """
    if part not in get_args(ExportPart):
        raise ConfigError(f"part must be one of {', '.join(get_args(ExportPart))}, got {part!r}")
    out = Path(out)
    refuse_other(out, _is_export, "ONNX file of trmml")
    made, paths = _made_images(), find_images(check) if check else []
    with _folder_beside(out) as folder:
        tagger = Tagger.load(run, encoder=encoder, trust=trust, also=also)
        subject = Subject(tagger, Intake.of(tagger.frozen.encoder) if part == "all" else None)
        written = folder / out.name
        _write(subject, subject.given(made[:2]), written)
        session = open_session(written, torch.get_num_threads())
        deviation = _deviation(session, subject, _batches(made, paths))
        if not deviation <= TOLERANCE:  # nor nan
            raise EncoderError(
                f"nothing was written to {out}: ONNX Runtime differs from torch by {deviation:.2g},"
                f" where {TOLERANCE:g} is allowed; perhaps encoder {tagger.card.encoder.name}"
                f" decides in Python what depends on the image{_way_out(subject)}"
            )
        speed = _speed(session, subject, made[:BATCH])
        del session  # some systems do not move a file that is open
        _refuse_others_weights(folder, out)
        files = [out.with_name(path.name) for path in sorted(folder.iterdir(), reverse=True)]
        for path in files:  # the weights first, so that no graph is without them
            os.replace(folder / path.name, path)
    return Exported(
        path=out,
        part=part,
        categories=tuple(tagger.category_names),
        opset=OPSET,
        size_bytes=sum(path.stat().st_size for path in files),
        external_data=next((path for path in files if path != out), None),
        checked_images=len(made) + len(paths),
        max_deviation=deviation,
        images_per_second=speed,
    )


def _is_export(path: Path) -> bool:
    """Whether a file begins like an ONNX file, and holds our metadata."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content[:1] == b"\x08" and content.rfind(_ENTRY) >= 0


def _refuse_others_weights(folder: Path, out: Path) -> None:
    """Refuse to replace weights beside `out` that are not those of an export there."""
    new = folder / f"{out.name}.data"
    beside = out.with_name(new.name)
    if not new.is_file() or not beside.is_file():
        return
    if not (out.is_file() and new.name.encode() in out.read_bytes()):
        raise DataError(
            f"{beside} is there already. Remove it if an export that was stopped left it, or name"
            " a new file"
        )


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A folder in the same place as the file to write; gone afterwards, with all it holds."""
    if out.is_dir():
        raise ConfigError(f"expected a file to write, as model.onnx, got the folder {out}")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(draft_folder(out))
        except OSError as error:
            raise ConfigError(
                f"cannot write {out}: {error.strerror}; name another place"
            ) from error
        yield folder


def _made_images() -> list[Image.Image]:
    """Drawn scenes and an image of noise: something to compare on without any file."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (256, 384, 3), np.uint8)
    return [*(draw_scene(rng).image for _ in range(SCENES)), Image.fromarray(noise)]


def _metadata(subject: Subject) -> dict[str, Any]:
    """What the user of the file has to know."""
    card, intake = subject.tagger.card, subject.intake
    tree = {
        "format": FORMAT,
        "trmml": version("trmml"),
        "part": "head" if intake is None else "all",
        "category_names": list(subject.tagger.category_names),
        "thresholds": subject.tagger.thresholds().tolist(),
        "calibrated": bool(card.chosen.get("calibrated", True)),
        "encoder": card.encoder.to_dict(),
        "grid": list(card.encoder.grid),
    }
    if intake is None:
        return tree
    at_least = REDUCED_MARGIN * intake.size if subject.tagger.reduced else None
    return {**tree, "at_least": at_least, "resize": "squash", **asdict(intake)}


def _way_out(subject: Subject) -> str:
    """What to do about an encoder that no file can hold."""
    return "" if subject.intake is None else "; export part 'head', which takes hidden patches"


def _write(subject: Subject, example: Tensor, path: Path) -> None:
    """Trace the module and write it; weights beyond one file's size go beside it."""
    name = subject.tagger.card.encoder.name
    try:
        program = trace(
            subject.graph(),
            example,
            inputs=["hidden_patches" if subject.intake is None else "image"],
            outputs=["probabilities", "region_maps"],
            what=f"encoder {name}",
        )
    except EncoderError as error:
        raise EncoderError(f"{error}{_way_out(subject)}") from error
    model = program.model
    model.metadata_props[METADATA_KEY] = json.dumps(_metadata(subject), ensure_ascii=False)
    weights = [value.const_value for value in model.graph.initializers.values()]
    size = sum(weight.nbytes for weight in weights if weight is not None)
    program.save(path, external_data=size > ONE_FILE_BYTES)


def _run(session: Any, given: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of the file, as tensors."""
    name = session.get_inputs()[0].name
    probabilities, maps = map(torch.from_numpy, session.run(None, {name: given.numpy()}))
    return probabilities, maps


def _batches(made: Sequence[Image.Image], paths: Sequence[Path]) -> Iterator[Sequence[Image.Image]]:
    """All images to compare on; the first goes alone, so that B has several sizes."""
    yield made[:1]
    yield made[1:]
    for start in range(0, len(paths), BATCH):
        yield [read_image(path) for path in paths[start : start + BATCH]]


def _deviation(session: Any, subject: Subject, batches: Iterable[Sequence[Image.Image]]) -> float:
    """The largest difference from torch, over all outputs; nan where either gives nan."""
    largest = torch.zeros(())
    for images in batches:
        outputs = _run(session, subject.given(images))
        for wanted, got in zip(subject.expected(images), outputs, strict=True):
            largest = torch.maximum(largest, (got.reshape(wanted.shape) - wanted).abs().max())
    return float(largest)


def _speed(session: Any, subject: Subject, images: Sequence[Image.Image]) -> dict[str, float]:
    """Images per second of both: the median of a few passes in turn; the check warmed them up."""
    graph = subject.graph()
    given = subject.given(images)
    passes: dict[str, Callable[[], object]] = {
        "onnxruntime": lambda: _run(session, given),
        "torch": lambda: graph(given),
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, compute in passes.items():
                started = time.perf_counter()
                compute()
                seconds[name].append(time.perf_counter() - started)
    return {name: len(images) / median(taken) for name, taken in seconds.items()}
