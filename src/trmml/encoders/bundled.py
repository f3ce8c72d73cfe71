"""The small encoder that comes with the package, for the demo and for trying things out."""

import json
from pathlib import Path

from open_clip import SimpleTokenizer

from trmml.encoders.clip.encoder import OpenClipEncoder
from trmml.encoders.clip.load import build_image_model, build_model
from trmml.encoders.clip.weights import fit_weights, read_weights
from trmml.errors import EncoderError

FOLDER = Path(__file__).with_name("bundled_weights")
NAME = "bundled"
RESIZE_MODES = {"squash": "squash", "shortest": "center-crop"}  # open_clip's words, and ours


def load_bundled(image_size: int | None = None, *, text: bool = True) -> OpenClipEncoder:
    """The encoder in the package; needs no network.

    Args:
        image_size: side of the input in pixels; the model's own by default.
        text: whether to load the text tower.

    Raises:
        EncoderError: its files are not there or damaged, or the size does not suit it.
    """
    return _load(FOLDER, image_size, text)


def _load(folder: Path, image_size: int | None, text: bool) -> OpenClipEncoder:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        preprocess, tokenizer = config["preprocess"], config["tokenizer"]
        model = (build_model if text else build_image_model)(config["model_cfg"])
        state, _ = read_weights(folder / config["weights"]["file"], text=text)
        fit_weights(model, state, NAME)
        words = None
        if text:
            words = SimpleTokenizer(
                bpe_path=str(folder / tokenizer["bpe_path"]),
                context_length=tokenizer["context_length"],
            )
    except (OSError, KeyError, ValueError) as error:
        raise EncoderError(
            f"the bundled encoder cannot be read from {folder} ({type(error).__name__}: {error}); "
            "install trmml again"
        ) from error
    return OpenClipEncoder(
        model,
        words,
        name=NAME,
        size=image_size,
        mean=preprocess["mean"],
        std=preprocess["std"],
        interpolation=preprocess["interpolation"],
        resize_mode=RESIZE_MODES[preprocess["resize_mode"]],
    )
