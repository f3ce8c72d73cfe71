"""The encoder protocol, the check that an object keeps it, and the identity of an encoder.

An encoder is a frozen image-text dual encoder. Everything heavy happens in it, and nothing of it
is trained. Whoever writes one implements `Encoder` on a `torch.nn.Module` and lets `identify` say
whether it fits; the optional attributes have defaults, so six methods and `size` are enough.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor, nn

from trmml.encoders.probe import Probe
from trmml.errors import EncoderError
from trmml.storage.json_text import of_kind

METHODS = ("preprocess", "encode_image", "project", "token_embeddings", "encode_text")
Content = tuple[Tensor, bytes]  # and the digest of its bytes
# Pixels to hidden patches and the unit-length image feature, both fp32, on the encoder's device.
EncodeImage = Callable[
    [Float[Tensor, "B 3 S S"]], tuple[Float[Tensor, "B P W"], Float[Tensor, "B D"]]
]


@runtime_checkable
class Encoder(Protocol):
    """What the method needs of an image-text dual encoder, which is also a `torch.nn.Module`.

    Axes: B images, P patches (row by row), W width of the hidden patches, D joint feature size,
    C texts, L tokens, E token embedding size, S = `size`.

    Optional attributes, with the default that readers use:
        name: str, shown to people; the class name.
        context_position: int, tokens before which no learned context may stand; 1, the start token.
        context_length: int, the largest L of `encode_text`; no limit.
        logit_scale: float, 1 / temperature of the encoder's own training; None.
        grid: (rows, columns) of the patches; the square root of P each.
        image_tower: torch.nn.Module that holds all that `encode_image` and `project` use; the
            whole encoder. What was computed from images stays valid while only the rest changes.
        has_text: bool, whether `token_embeddings` and `encode_text` work; True.
        preprocessing: str, one line that names all `preprocess` depends on: mean, std,
            interpolation, resize mode and size; nothing is known of it without.
        patch_positions: (1 + P, W), what the encoder's pooling adds to the mean of the hidden
            patches and to each of them before it projects them; None.
        preprocess_pixels: what `preprocess` does, for a uint8 tensor (3, H, W) on any device, as
            float32 (3, S, S) on the same one; images then pass through `preprocess`.
    """

    size: int

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 S S"]:
        """An RGB image of any size as a float32 tensor that `encode_image` takes."""
        ...

    def encode_image(
        self, pixels: Float[Tensor, "B 3 S S"]
    ) -> tuple[Float[Tensor, "B P W"], Float[Tensor, "B D"]]:
        """Hidden patches and the unit-length image feature, without gradient."""
        ...

    def project(self, hidden_patches: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """Hidden patches in the joint space: frozen, cheap, not normalised."""
        ...

    def token_embeddings(
        self, texts: list[str]
    ) -> tuple[Float[Tensor, "C L E"], Shaped[Tensor, "C L"]]:
        """Embeddings of the tokens, padded on the right, and a mask that is 1 on real tokens."""
        ...

    def encode_text(
        self, token_embeddings: Float[Tensor, "C L E"], mask: Shaped[Tensor, "C L"]
    ) -> Float[Tensor, "C D"]:
        """Unit-length text features, differentiable in the embeddings; adds the positions."""
        ...


def short_name(name: str) -> str:
    """An encoder's name without the folders of its files, which differ between machines.

    Example:
        >>> short_name("/home/me/encoder.py:Mine"), short_name("hf-hub:laion/some-model")
        ('encoder.py:Mine', 'hf-hub:laion/some-model')
    """
    parts = (Path(part) for part in name.split(":"))
    return ":".join(part.name if part.is_absolute() else str(part) for part in parts)


@dataclass(frozen=True)
class EncoderIdentity:
    """What tells two encoders apart, stored with features and checkpoints.

    Args:
        name: the spec the encoder was loaded from, or its own name.
        checksum: of the whole encoder, see `checksum`; "" where it was loaded without text.
        image_checksum: of its `image_tower`; of the whole encoder where it has no such part.
        size: side of the square input in pixels.
        patches: P.
        grid: (rows, columns) of the patches.
        hidden_size: W.
        feature_size: D.
        token_size: E; 0 where it was loaded without text.
    """

    name: str
    checksum: str
    image_checksum: str
    size: int
    patches: int
    grid: tuple[int, int]
    hidden_size: int
    feature_size: int
    token_size: int

    def to_dict(self) -> dict[str, Any]:
        """The identity as plain JSON values."""
        return {**asdict(self), "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EncoderIdentity":
        """The identity that `to_dict` wrote; EncoderError names keys that lack or are too many."""
        wanted = {field.name for field in fields(cls)}
        if wrong := wanted ^ set(values):
            raise EncoderError(
                f"an encoder identity has the keys {sorted(wanted)}, got {sorted(values)}: "
                f"{sorted(wrong)} differ; the file is damaged or from another version"
            )
        try:
            identity: EncoderIdentity = of_kind(cls, values)
        except ValueError as error:
            raise EncoderError(f"the file of an encoder identity is damaged: {error}") from None
        return identity


def freeze(encoder: object) -> None:
    """Switch off the gradient of every weight, and dropout and batch statistics with it."""
    _module(encoder).requires_grad_(False).eval()


def checksum(module: nn.Module, contents: dict[Any, Content] | None = None) -> str:
    """Hex sha256 over a module's structure and the digests of its state dict, in order of name.

    The structure is what `repr` shows, so that two activations between the same weights differ. An
    entry's digest covers its name, dtype, shape and bytes. Entries are hashed side by side.

    Args:
        module: on any device.
        contents: what was hashed before, by its place in memory, which it keeps; added to.

    Example:
        >>> from torch import nn
        >>> checksum(nn.GELU()) == checksum(nn.SiLU())
        False
    """
    entries = sorted(module.state_dict().items())
    known = {} if contents is None else contents
    new = {_place(value): value for _, value in entries if isinstance(value, Tensor)}
    new = {place: value for place, value in new.items() if place not in known}
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        digests = pool.map(_content, new.values())
        known |= {place: (new[place], digest) for place, digest in zip(new, digests, strict=True)}
    whole = hashlib.sha256(repr(module).encode())
    for name, value in entries:
        if isinstance(value, Tensor):
            header = f"{name}|{value.dtype}|{tuple(value.shape)}|".encode()
            whole.update(hashlib.sha256(header + known[_place(value)][1]).digest())
        else:  # what a module adds with get_extra_state
            whole.update(hashlib.sha256(f"{name}|{value!r}".encode()).digest())
    return whole.hexdigest()


def _place(value: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in memory, and how it is read from there."""
    return value.device, value.data_ptr(), value.dtype, value.shape, value.stride()


def _content(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).digest()


def _checksums(module: nn.Module, has_text: bool) -> tuple[str, str]:
    """Of the whole encoder, "" without its text tower, and of what makes image features."""
    tower = getattr(module, "image_tower", None)
    contents: dict[Any, Content] = {}
    image = checksum(tower if isinstance(tower, nn.Module) else module, contents)
    return (checksum(module, contents) if has_text else ""), image


def missing_methods(encoder: object) -> list[str]:
    """Names of the methods of the protocol that the object does not offer."""
    return [name for name in METHODS if not callable(getattr(encoder, name, None))]


def identify(encoder: object, spec: str | None = None) -> EncoderIdentity:
    """The identity of an encoder, after one blank image and one text have gone through it.

    The text is left out, and the checksum of the whole with it, where the encoder has no text.

    Args:
        encoder: any object; whether it keeps the protocol is checked.
        spec: what the user asked for; becomes the name. By default the encoder's own name.

    Raises:
        EncoderError: a part of the protocol is missing, raises, or gives a wrong shape, a feature
            that is not of unit length, or a text feature without gradient.
    """
    name = spec or str(getattr(encoder, "name", type(encoder).__name__))
    module = _module(encoder, name)
    if missing := missing_methods(encoder):
        raise EncoderError(
            f"encoder {name!r} lacks {', '.join(missing)}: an encoder offers {', '.join(METHODS)}"
        )
    size = getattr(encoder, "size", None)
    if not isinstance(size, int) or size < 1:
        raise EncoderError(f"encoder {name!r}: size must be the input's side in pixels, got {size}")
    probe = Probe(name, encoder, _device(module))
    hidden, image_feature = probe.image()
    grid = probe.grid(hidden.shape[1])
    has_text = bool(getattr(encoder, "has_text", True))
    token_size = probe.text(image_feature.shape[1]) if has_text else 0
    whole, image = _checksums(module, has_text)
    return EncoderIdentity(
        name=name,
        checksum=whole,
        image_checksum=image,
        size=size,
        patches=hidden.shape[1],
        grid=grid,
        hidden_size=hidden.shape[2],
        feature_size=image_feature.shape[1],
        token_size=token_size,
    )


def _module(encoder: object, name: str | None = None) -> nn.Module:
    if not isinstance(encoder, nn.Module):
        raise EncoderError(
            f"encoder {name or type(encoder).__name__!r} must be a torch.nn.Module, so that it can "
            f"be frozen, moved and checked, got {type(encoder).__name__}"
        )
    return encoder


def _device(module: nn.Module) -> torch.device:
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
