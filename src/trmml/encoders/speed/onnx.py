"""ONNX: modules traced by torch, image towers in int8, and ONNX Runtime to run them."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from torch import Tensor, nn

from trmml.encoders.base import EncodeImage, Encoder
from trmml.encoders.frozen import FrozenEncoder
from trmml.errors import EncoderError, MissingExtraError
from trmml.storage.atomic import whole_file
from trmml.storage.cache import cache_folder
from trmml.storage.hashes import hash_file

logger = logging.getLogger(__name__)

# The first with Gelu as one operator, which ONNX Runtime computes in a third of the time.
OPSET = 20
# Of the files in the cache; to be raised when what is written into them changes.
FORMAT = 1
# Layers whose weights become int8. Convolutions stay: ONNX Runtime's integer convolution took 4.6
# times as long as the one in fp32 for the patches of ViT-B-32 (benchmarks/README.md).
INT8_LAYERS = ("MatMul",)


def refuse_without_onnx(what: str) -> None:
    """MissingExtraError where a package of the extra `export` is absent."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not _is_there(name)]
    if missing:
        raise MissingExtraError(f"{what} (without {', '.join(missing)})", "export")


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # switched off in sys.modules
        return False


def trace(
    module: nn.Module, example: Tensor, *, inputs: Sequence[str], outputs: Sequence[str], what: str
) -> Any:
    """Torch's ONNX program of a module, for batches of any size.

    Args:
        module: in evaluation mode.
        example: a batch of at least two, so that no size is taken for fixed.
        inputs: names.
        outputs: names.
        what: is traced, for the message.

    Raises:
        EncoderError: its code cannot be traced.
    """
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # whatever the encoder's code made the tracer stumble over
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(
            f"{what} cannot be exported to ONNX ({type(error).__name__}: {reason})"
        ) from error
    return program


def open_session(path: Path) -> Any:
    """ONNX Runtime on the processor, with as many threads as torch has."""
    import onnxruntime  # an optional part

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # A thread that spins takes its core from the threads of torch and of the decoder that follow.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def onnx_image_encoder(frozen: FrozenEncoder, kind: Literal["onnx", "int8"]) -> EncodeImage:
    """`encode_image` by ONNX Runtime; its file is made once and kept in the cache.

    Args:
        frozen: an encoder on the CPU.
        kind: "onnx" is fp32, "int8" has int8 weights per channel and activations scaled as they
            come.

    Raises:
        MissingExtraError: ONNX Runtime and the like are not installed.
        EncoderError: the encoder cannot be exported.
    """
    refuse_without_onnx(f"the encoder precision {kind}")
    made = f"{kind}-{FORMAT}-{version('onnxruntime')}"
    name = f"{frozen.identity.image_checksum[:24]}-{frozen.identity.size}-{made}.onnx"
    path = cache_folder() / "encoders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        session = _opened(path)
        if session is None:
            _make(frozen.encoder, path, kind)
            session = open_session(path)
    entry = session.get_inputs()[0].name

    def encode_image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        hidden, image = session.run(None, {entry: pixels.contiguous().numpy()})
        return torch.from_numpy(hidden), torch.from_numpy(image)

    return encode_image


class _ImageTower(nn.Module):
    """What is traced: pixels to hidden patches and image feature."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.encode_image(pixels)


def _opened(path: Path) -> Any:
    """A session on a file that is there and whole, else None.

    A file that was made before its hash was kept beside it is believed.
    """
    if not path.is_file():
        return None
    try:
        kept = path.with_suffix(".sha256")
        if kept.is_file() and kept.read_text("utf-8") != hash_file(path):
            raise ValueError("its hash is another")
        return open_session(path)
    except Exception as error:  # ONNX Runtime has many errors for a damaged file
        logger.warning("%s cannot be read (%s); it is made anew", path, type(error).__name__)
        return None


def _make(encoder: Encoder, path: Path, kind: Literal["onnx", "int8"]) -> None:
    """Trace the image tower and write it, whole or not at all."""
    what = f"encoder {getattr(encoder, 'name', type(encoder).__name__)}"
    example = torch.zeros(2, 3, encoder.size, encoder.size)
    logger.info("exporting %s for ONNX Runtime; this is done once", what)
    program = trace(
        _ImageTower(encoder).eval(),
        example,
        inputs=["pixels"],
        outputs=["hidden_patches", "image_feature"],
        what=what,
    )
    kept = path.with_suffix(".sha256")
    kept.unlink(missing_ok=True)  # of the file before
    with whole_file(path) as part, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "plain.onnx" if kind == "int8" else part
        program.save(plain)
        if kind == "int8":
            _quantise(plain, part)
    with whole_file(kept) as part:
        part.write_text(hash_file(path), "utf-8")


def _quantise(plain: Path, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    try:
        with _quiet_exporter():
            quantize_dynamic(
                plain,
                out,
                op_types_to_quantize=list(INT8_LAYERS),
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    except Exception as error:  # what it cannot handle, it raises in many ways
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(f"the encoder cannot be had in int8 ({reason})") from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps exporter and quantiser from telling what they could not simplify."""
    names = ("onnxscript", "root")
    levels: Mapping[str, int] = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
