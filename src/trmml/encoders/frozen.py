"""A frozen encoder with all that its users need to know of it, made once."""

from dataclasses import dataclass

from torch import nn

from trmml.encoders.base import EncodeImage, Encoder, EncoderIdentity, freeze, identify


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """An encoder that does not change any more; `frozen_encoder` makes it.

    Attributes:
        encoder: in evaluation mode, without gradients, on `device`.
        identity: of the encoder.
        device: where it runs: "cpu", "cuda" or "cuda:1".
        encode: its `encode_image`, in `precision`.
        precision: one of `speed.precision.PRECISIONS`; see `speed.precision.in_precision`.
    """

    encoder: Encoder
    identity: EncoderIdentity
    device: str
    encode: EncodeImage
    precision: str = "fp32"


def frozen_encoder(
    encoder: Encoder | FrozenEncoder, *, device: str = "cpu", spec: str | None = None
) -> FrozenEncoder:
    """The encoder frozen, moved to a device and identified; one that is frozen comes back as it is.

    Args:
        encoder: keeps the protocol, which is checked.
        device: where it will run.
        spec: what `load_encoder` took, for its name; an encoder that came from there knows its own.

    Raises:
        EncoderError: it does not keep the protocol.
    """
    if isinstance(encoder, FrozenEncoder):
        return encoder
    freeze(encoder)
    assert isinstance(encoder, nn.Module)  # or `freeze` would have refused it
    encoder.to(device)
    identity = identify(encoder, spec or getattr(encoder, "spec", None))
    return FrozenEncoder(encoder, identity, device, encoder.encode_image)
