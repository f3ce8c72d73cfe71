"""Weights of open_clip models: read from a file without running code, fitted strictly to a model.

Three kinds of file are read: safetensors, a torch state dict (tensors only), and the TorchScript
archives that OpenAI published, by their checksums. Nothing is ever unpickled beyond tensors.
"""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.factory import convert_to_custom_text_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trmml.errors import EncoderError
from trmml.storage.hashes import hash_file

StateDict = dict[str, Tensor]

# Entries that only OpenAI's own archives hold beside the weights.
OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")
SHOWN_KEYS = 3
DDP_PREFIX = "module."
# What images do without, in the layouts of CLIP, CustomTextCLIP, CoCa and MobileCLIP.
TEXT_PREFIXES = (
    *("text", "transformer.", "token_embedding.", "positional_embedding", "ln_final."),
    "logit_bias",
)
# Old versions of transformers saved the position numbers with the weights.
POSITION_IDS = "text.transformer.embeddings.position_ids"


def read_weights(path: Path, *, text: bool = True) -> tuple[StateDict, bool]:
    """The state dict in a file, and whether it has the layout of OpenAI's archives.

    Args:
        path: of the file.
        text: whether to keep the entries of the text tower; a safetensors file is otherwise read
            without them.

    Raises:
        EncoderError: no such file, a damaged one, or one that would run code when read.
    """
    if not path.is_file():
        raise EncoderError(
            f"{path}: no such file; after the colon goes a tag of open_clip or a path to weights"
        )
    if path.suffix == ".safetensors":
        loaded: object = _read_safetensors(path, text)
    elif _is_torchscript(path):
        loaded = _read_torchscript(path)
    else:
        loaded = _read_torch(path)
    state = _unwrap(path, loaded)
    is_openai = all(key in state for key in OPENAI_EXTRAS)
    if is_openai:
        state = {key: value for key, value in state.items() if key not in OPENAI_EXTRAS}
    return {key: _as_float(v) for key, v in state.items() if text or not _is_text(key)}, is_openai


def _is_text(key: str) -> bool:
    """Whether an entry belongs to the text tower, or to the decoder of CoCa."""
    return key.removeprefix(DDP_PREFIX).startswith(TEXT_PREFIXES)


def fit_weights(model: nn.Module, state: StateDict, spec: str) -> None:
    """Load the weights; every name and shape must agree.

    Raises:
        EncoderError: names a few entries that disagree and the architectures that would fit.
    """
    fitted = _converted(model, state)
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in fitted]
    extra = [key for key in fitted if key not in wanted]
    shapes = [
        f"{key} is {tuple(fitted[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted
        if key in fitted and fitted[key].shape != wanted[key].shape
    ]
    faulty = [("missing", missing), ("unexpected", extra), ("wrong shape", shapes)]
    if faults := [f"{len(keys)} {kind} ({_few(keys)})" for kind, keys in faulty if keys]:
        raise EncoderError(
            f"{spec}: the weights do not fit the architecture: {'; '.join(faults)}. "
            f"{_suggestion(fitted)}"
        )
    model.load_state_dict(fitted, strict=True)


def _converted(model: Any, state: StateDict) -> StateDict:
    """The entries under the names that this model uses, as open_clip converts older layouts."""
    state = convert_state_dict(model, dict(state))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    wanted = model.state_dict()
    if POSITION_IDS not in wanted:
        state.pop(POSITION_IDS, None)
    for key in ("logit_scale", "logit_bias"):  # a scalar in some files, one number in others
        if key in state and key in wanted and state[key].numel() == 1:
            state[key] = state[key].reshape(wanted[key].shape)
    if "logit_bias" in wanted:  # only the matching of whole images uses it
        state.setdefault("logit_bias", torch.zeros_like(wanted["logit_bias"]))
    return state


def _read_safetensors(path: Path, text: bool) -> StateDict:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys() if text or not _is_text(key)}
    except (SafetensorError, OSError, ValueError) as error:
        raise EncoderError(
            f"{path}: not a whole safetensors file ({error}); download it again"
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _openai_checksums() -> set[str]:
    """SHA-256 of the archives that OpenAI published; they stand in their addresses."""
    tags = [open_clip.get_pretrained_cfg(*pair) for pair in open_clip.list_pretrained()]
    urls = [str(tag.get("url")) for tag in tags]
    return {url.split("/")[-2] for url in urls if "openaipublic" in url}


def _read_torchscript(path: Path) -> StateDict:
    if hash_file(path) not in _openai_checksums():  # loading one runs what it holds
        raise EncoderError(
            f"{path}: a TorchScript archive that is none of those OpenAI published; reading it"
            " could run code, so it is refused. Ask for safetensors"
        )
    with warnings.catch_warnings():
        # torch is retiring TorchScript; OpenAI's archives exist in no other form.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load.*")
        try:
            state: StateDict = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise EncoderError(
                f"{path}: a TorchScript archive that torch {torch.__version__} cannot read "
                f"({str(error).splitlines()[0]}); save its weights as safetensors"
            ) from error
    return state


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # A file pickled by hand: torch warns, then reads its tensors or refuses it.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{path}: holds more than tensors, or is no weights file; reading it could run code, "
            "so it is refused. Ask for safetensors, or convert it on a machine you can spare: "
            "safetensors.torch.save_file(torch.load(path, weights_only=False), new_path)"
        ) from error
    except Exception as error:  # bytes that are no pickle can fail in any way
        raise EncoderError(
            f"{path}: not a whole torch file ({type(error).__name__}: {str(error)[:100]}); "
            "download it again, or give a safetensors file"
        ) from error


def _unwrap(path: Path, loaded: object) -> StateDict:
    """The state dict itself, out of a training checkpoint and without the prefix of DDP."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise EncoderError(f"{path}: expected a state dict, got {type(loaded).__name__}")
    if wrong := [key for key, value in loaded.items() if not isinstance(value, Tensor)]:
        raise EncoderError(
            f"{path}: expected only tensors, or them under 'state_dict'; {_few(wrong)} "
            "are none: is this an open_clip checkpoint?"
        )
    state = {str(key): value for key, value in loaded.items()}
    if all(key.startswith(DDP_PREFIX) for key in state):
        return {key.removeprefix(DDP_PREFIX): value for key, value in state.items()}
    return state


def _as_float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _few(keys: list[Any]) -> str:
    shown = ", ".join(str(key) for key in keys[:SHOWN_KEYS])
    return shown if len(keys) <= SHOWN_KEYS else f"{shown}, ..."


def _suggestion(state: StateDict) -> str:
    """Which architectures of open_clip have the sizes of these weights, as far as they tell."""
    if fits := matching_architectures(state):
        return f"They fit {', '.join(fits[:5])}: use that name before the colon"
    return "No architecture of open_clip has these sizes: is this an open_clip checkpoint?"


def matching_architectures(state: StateDict) -> list[str]:
    """Architectures of open_clip whose layers, widths and sizes are those of a CLIP state dict."""
    text = {key.removeprefix("text."): value for key, value in state.items()}
    try:
        vision = _vision_sizes(state)
        embed_dim = state["visual.proj"].shape[1] if "visual.proj" in state else None
        if embed_dim is None:
            embed_dim = state["visual.attnpool.c_proj.weight"].shape[0]
        width = len(text["ln_final.weight"]) if "ln_final.weight" in text else None
    except (KeyError, IndexError):
        return []
    given = (embed_dim, width, vision)
    return [name for name in open_clip.list_models() if _fits(_config_sizes(name), given)]


def _fits(sizes: tuple[Any, ...] | None, given: tuple[Any, ...]) -> bool:
    """Whether the sizes agree; the text's width in the middle may be unknown."""
    return sizes is not None and (sizes == given or (given[1] is None and sizes[::2] == given[::2]))


def _vision_sizes(state: StateDict) -> tuple[Any, ...]:
    """(blocks per stage, or blocks and width and patch; positions) of the image tower."""
    if "visual.layer1.0.conv1.weight" in state:
        stages = tuple(_blocks(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        return stages, width, len(state["visual.attnpool.positional_embedding"])
    width, _, patch, _ = state["visual.conv1.weight"].shape
    blocks = _blocks(state, "visual.transformer.resblocks.")
    return blocks, width, patch, len(state["visual.positional_embedding"])


def _blocks(state: StateDict, prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _config_sizes(name: str) -> tuple[Any, ...] | None:
    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in config["text_cfg"]:
        return None
    layers, width, size = vision["layers"], vision["width"], vision["image_size"]
    if isinstance(layers, list):
        sizes: tuple[Any, ...] = (tuple(layers), width, (size // 32) ** 2 + 1)
    else:
        patch = vision["patch_size"]
        sizes = (layers, width, patch, (size // patch) ** 2 + 1)
    return config["embed_dim"], config["text_cfg"].get("width", 512), sizes
