"""ONNX: modules traced by torch, image towers in int8, and ONNX Runtime to run them."""

import ast
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from torch import Tensor, nn

from trmml.encoders.base import EncodeImage, Encoder
from trmml.encoders.frozen import FrozenEncoder
from trmml.errors import EncoderError
from trmml.storage.atomic import write_text
from trmml.storage.cache import cache_folder
from trmml.storage.drafts import draft_folder
from trmml.storage.hashes import hash_file
from trmml.storage.sessions import open_session

logger = logging.getLogger(__name__)

# The first with Gelu as one operator, which ONNX Runtime computes in a third of the time.
OPSET = 20
# Of the files in the cache; to be raised when what is written into them changes.
FORMAT = 1
# Layers whose weights become int8. Convolutions stay: ONNX Runtime's integer convolution took 4.6
# times as long as the one in fp32 for the patches of ViT-B-32 (benchmarks/README.md).
INT8_LAYERS = ("MatMul",)
# Products with fewer weights stay as well: they take no time.
LEAST_WEIGHTS = 2**17


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


def onnx_image_encoder(frozen: FrozenEncoder, kind: Literal["onnx", "int8"]) -> EncodeImage:
    """`encode_image` by ONNX Runtime; its file is made once and kept in the cache.

    Args:
        frozen: an encoder on the CPU.
        kind: "onnx" is fp32, "int8" has int8 weights per channel and activations scaled as they
            come.

    Raises:
        EncoderError: the encoder cannot be exported.
    """
    made = f"{kind}-{FORMAT}-{version('onnxruntime')}"
    name = f"{frozen.identity.image_checksum[:24]}-{frozen.identity.size}-{made}.onnx"
    path = cache_folder() / "encoders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        session = _opened(path)
        if session is None:
            _make(frozen.encoder, path, kind)
            session = open_session(path, torch.get_num_threads())
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
        return open_session(path, torch.get_num_threads())
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
    with draft_folder(path) as folder:
        plain = made = folder / "plain.onnx"
        program.save(plain)
        if kind == "int8":
            made = folder / "int8.onnx"
            quantise(plain, made)
        os.replace(made, path)
    write_text(kept, hash_file(path))


def quantise(plain: Path, out: Path, *, apart: str | None = None) -> None:
    """Write an ONNX file again with int8 weights, and activations scaled as they come.

    Args:
        plain: the file in fp32, as `trace` made it.
        out: the file to write.
        apart: a package. Products in the parts of its modules stay in fp32, and so does all that
            depends on them.

    Raises:
        EncoderError: it has something that the quantiser cannot handle.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(plain)
    sizes = {weight.name: math.prod(weight.dims) for weight in model.graph.initializer}
    later = set() if apart is None else _dependent(model.graph, apart)
    if apart is not None and not later:
        raise EncoderError(f"the file does not say which of its parts are of {apart}")
    kept = [
        f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name  # as the quantiser calls it
        for node in model.graph.node
        if node.op_type in ("Gemm", *INT8_LAYERS)
        and (node.output[0] in later or sizes.get(node.input[1], 0) < LEAST_WEIGHTS)
    ]
    # Shapes from before the exporter's last rewriting; some are wrong.
    del model.graph.value_info[:]
    try:
        with _quiet_exporter():
            quantize_dynamic(
                model,
                out,
                op_types_to_quantize=list(INT8_LAYERS),
                nodes_to_exclude=kept,
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    except Exception as error:  # what it cannot handle, it raises in many ways
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(f"the encoder cannot be had in int8 ({reason})") from error


def _dependent(graph: Any, package: str) -> set[str]:
    """Names of all values in a graph that are made in the parts of a package's modules, or of them.

    The outermost module joins the parts. What it computes itself may be the encoder's, as the
    projection that it was given.
    """
    found: set[str] = set()
    for node in graph.node:  # in the order of computation
        about = {entry.key: entry.value for entry in node.metadata_props}
        classes = ast.literal_eval(about.get("pkg.torch.onnx.class_hierarchy", "[]"))
        inside = sum(name.startswith(f"{package}.") for name in classes)
        if inside > 1 or not found.isdisjoint(node.input):
            found.update(node.output)
    return found


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
