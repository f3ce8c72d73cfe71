"""Reading files of weights without running code, and fitting them strictly."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from tests.tiny_clip_files import CONFIGS, architectures, published, save_openai_archive, state
from trmml.encoders.clip import weights as clip_weights
from trmml.encoders.clip.load import build_model
from trmml.encoders.clip.weights import fit_weights, matching_architectures, read_weights
from trmml.errors import EncoderError

__all__ = ["architectures"]  # a fixture


def test_older_layouts_are_converted() -> None:
    model = build_model(CONFIGS["tiny-SigLIP"])
    entries = build_model({**CONFIGS["tiny-SigLIP"], "custom_text": False}).state_dict()
    entries["logit_scale"] = entries["logit_scale"].reshape(1)
    del entries["logit_bias"]
    fit_weights(model, entries, "older")
    torch.testing.assert_close(model.text.positional_embedding, entries["positional_embedding"])
    assert model.logit_bias is not None and float(model.logit_bias.detach()) == 0


def test_architectures_are_told_by_their_sizes() -> None:
    assert "tiny-RN" in matching_architectures(state())
    assert matching_architectures(state("tiny-ViT")) == ["tiny-ViT"]
    assert matching_architectures({"a": torch.zeros(1)}) == []


# error messages


def test_weights_that_do_not_fit() -> None:
    message = r"missing \(.*unexpected \(.*They fit tiny-RN.*before the colon"
    with pytest.raises(EncoderError, match=message):
        fit_weights(build_model(CONFIGS["tiny-ViT"]), state(), "spec")
    entries = state()
    entries["ln_final.weight"] = torch.zeros(3)
    with pytest.raises(EncoderError, match=r"1 wrong shape \(ln_final.weight is \(3,\), expected"):
        fit_weights(build_model(CONFIGS["tiny-RN"]), entries, "spec")
    with pytest.raises(EncoderError, match=r"missing \(.*, \.\.\.\).*No architecture of open_clip"):
        fit_weights(build_model(CONFIGS["tiny-RN"]), {"logit_scale": torch.zeros(())}, "spec")


class Payload:
    """Would leave a mark if it were ever unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, "code.pt")
    Path("pickled.bin").write_bytes(pickle.dumps({"weight": Payload()}))
    for name in ("code.pt", "pickled.bin"):
        with pytest.raises(EncoderError, match=r"holds more than tensors.*refused.*safetensors"):
            read_weights(Path(name))
    assert not Path("executed").exists()
    Path("text.pt").write_text("hello")
    Path("broken.safetensors").write_bytes(b"\xff" * 20)
    torch.save(torch.zeros(3), "tensor.pt")
    torch.save({"epoch": 3}, "numbers.pt")
    torch.save(state(), "cut.pt")
    Path("cut.pt").write_bytes(Path("cut.pt").read_bytes()[:5000])
    for name, message in {
        "none.pt": "no such file",
        "text.pt": "refused|not a whole torch file",
        "cut.pt": "refused|not a whole torch file",
        "broken.safetensors": "not a whole safetensors file",
        "tensor.pt": "expected a state dict, got Tensor",
        "numbers.pt": "expected only tensors.*epoch",
    }.items():
        with pytest.raises(EncoderError, match=message):
            read_weights(Path(name))


def test_an_archive_that_openai_did_not_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_openai_archive(state(), tmp_path / "a.pt")
    sums = clip_weights._openai_checksums()
    assert len(sums) == 9 and all(len(one) == 64 for one in sums)

    def load(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(torch.jit, "load", load)
    with pytest.raises(EncoderError, match=r"none of those OpenAI published.*refused"):
        read_weights(tmp_path / "a.pt")


def test_a_broken_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"x")
    published(monkeypatch, tmp_path / "a.pt")
    with pytest.raises(EncoderError, match="TorchScript archive that torch"):
        read_weights(tmp_path / "a.pt")
