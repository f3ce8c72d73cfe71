"""Runs on the Hub: there and back bit for bit, cards, and what is refused either way."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from tests.hub.fake_api import FakeApi
from tests.tiny_clip_files import CONFIGS, TEXT, architectures, save_openai_archive, state
from tests.toy import ToyEncoder, kept_encoder
from trmml.encoders.clip import load as clip_load
from trmml.errors import CheckpointError, ConfigError, EncoderError, TrmmlError
from trmml.hub.card import write_card
from trmml.hub.checks import encoder_fault, identifying
from trmml.hub.repository import pull, push
from trmml.storage.cache import cache_folder
from trmml.tagging.tagger import Tagger
from trmml.training.run_folder import card_sum, load_card, summed

__all__ = ["architectures"]  # a fixture
hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
NAME = "anna/toys"
# Others can load it by this name, as far as can be told without the network.
SPEC = "hf-hub:anna/toy-encoder"
OWN = {"model.safetensors", "model.json", "settings.json", "config.json", "README.md"}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


def pushed(run: Path, api: FakeApi, **options: object) -> dict[str, bytes]:
    """The files of the newest commit."""
    given = {"license_id": "mit", "encoder": SPEC, "api": api, **options}
    done = push(run, NAME, **given)  # type: ignore[arg-type]
    assert done.commit is not None
    return api.commits[NAME][done.commit]


# There and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [5, 6])
def test_a_run_of_either_format_tags_bit_for_bit(
    number: int, api: FakeApi, tmp_path: Path, toy_images
) -> None:
    run = Path(__file__).parents[1] / f"training/run_format_{number}"
    assert set(pushed(run, api)) == OWN
    back = pull(NAME, tmp_path / "back", api=api)
    assert {path.name for path in back.iterdir()} == OWN
    images = sorted(toy_images.test.iterdir())
    here, there = (
        [image.tags for image in Tagger.load(folder, encoder=kept_encoder()).tag(images, top=4)]
        for folder in (run, back)
    )
    assert here == there and here


def test_where_a_run_comes_from_is_written_down(
    finished_run: Path, api: FakeApi, tmp_path: Path
) -> None:
    pushed(finished_run, api)
    back = pull(NAME, tmp_path / "back", api=api)
    tree = json.loads((back / "model.json").read_text("utf-8"))
    (commit,) = api.commits[NAME]
    assert tree["pulled_from"] == {"repository": NAME, "commit": commit}
    assert tree["encoder_spec"] == SPEC and tree["card_sha256"] == card_sum(tree)
    assert load_card(back).category_names == load_card(finished_run).category_names
    with pytest.raises(ConfigError, match="there already"):
        pull(NAME, back, api=api)


def test_a_commit_is_fetched_once(
    finished_run: Path, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path))
    pushed(finished_run, api)
    first = pull(f"hf:{NAME}", api=api)
    fetched = len(api.fetched)
    assert first.is_relative_to(cache_folder()) and pull(f"hf:{NAME}", api=api) == first
    assert len(api.fetched) == fetched
    (commit,) = api.commits[NAME]
    assert pull(f"hf:{NAME}@{commit}", api=None) == first  # the Hub is not asked


# What is pushed -----------------------------------------------------------------------------


def test_a_dry_run_sends_nothing(finished_run: Path, api: FakeApi) -> None:
    before = sorted(path.name for path in finished_run.iterdir())
    done = push(finished_run, NAME, license_id="mit", encoder=SPEC, dry_run=True, api=api)
    assert done.commit is None and set(done.files) == OWN and not api.commits
    assert sorted(path.name for path in finished_run.iterdir()) == before


def test_labels_and_onnx_go_on_request(finished_run: Path, api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"onnx")
    files = pushed(finished_run, api, labels=True, onnx=tmp_path / "x.onnx")
    assert set(files) == OWN | {"known.safetensors", "model.onnx"}
    pull(NAME, tmp_path / "back", api=api)
    assert set(api.fetched) == OWN  # neither is needed to tag


def test_remembered_labels_go_on_request_only(
    finished_run: Path, api: FakeApi, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    tree = json.loads((run / "model.json").read_bytes())
    tree["settings"]["neighbour_head"] = {"use": True}
    (run / "model.json").write_text(json.dumps(summed(tree)))
    with pytest.raises(ConfigError, match=r"remembers its training images.*--with-labels"):
        pushed(run, api)
    assert not api.commits
    assert "known.safetensors" in pushed(run, api, labels=True)


def test_an_onnx_file_goes_with_its_weights(
    finished_run: Path, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    files = pushed(finished_run, api, onnx=tmp_path / "model.onnx")
    assert files["model.onnx.data"] == b"weights"
    about = api.model_info

    def large(*given: object, **how: object) -> object:
        found = about(*given, **how)  # type: ignore[arg-type]
        for file in found.siblings:
            file.size = 2**32 if file.rfilename.startswith("model.onnx") else file.size
        return found

    monkeypatch.setattr(api, "model_info", large)
    pull(NAME, tmp_path / "back", api=api)  # it does not fetch them


def test_private_by_default_and_never_public_unasked(finished_run: Path, api: FakeApi) -> None:
    pushed(finished_run, api)
    assert api.private[NAME]
    api.private[NAME] = False
    for branch in (None, "new"):
        with pytest.raises(ConfigError, match="is public; say --public"):
            pushed(finished_run, api, revision=branch)
    assert api.branches == {"main"}
    pushed(finished_run, api, public=True)


def test_a_private_repository_is_not_written_as_if_it_were_public(
    finished_run: Path, api: FakeApi
) -> None:
    pushed(finished_run, api)
    before = list(api.commits[NAME])
    with pytest.raises(ConfigError, match=r"already and private.*leave --public out, make it"):
        pushed(finished_run, api, public=True)
    assert list(api.commits[NAME]) == before and api.private[NAME]


def test_an_encoder_that_others_lack_is_refused(finished_run: Path, api: FakeApi) -> None:
    for spec, words in (
        (None, "is code"),
        ("ViT-B-16:/home/anna/w.safetensors", "a place on one machine"),
        ("local-dir:models/mine", "a place on one machine"),
    ):
        with pytest.raises(ConfigError, match=f"{words}.*push the encoder"):
            push(finished_run, NAME, license_id="mit", encoder=spec, api=api)
    assert not api.commits


def test_what_an_earlier_push_sent_does_not_stay_beside_another_model(
    finished_run: Path, api: FakeApi, tmp_path: Path
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"onnx")
    pushed(finished_run, api, labels=True, onnx=tmp_path / "x.onnx")
    api.put(NAME, {**list(api.commits[NAME].values())[-1], "notes.md": b"of the owner"})
    assert set(pushed(finished_run, api)) == OWN | {"notes.md"}


def test_a_new_branch_is_made(finished_run: Path, api: FakeApi) -> None:
    pushed(finished_run, api, revision="trial")
    assert "trial" in api.branches


def test_a_report_is_pushed_where_it_names_no_place(
    finished_run: Path, api: FakeApi, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    with pytest.raises(ConfigError, match=r"has no report\.html to push"):
        pushed(run, api, report=True)
    (run / "report.html").write_text("<td>cat</td>")
    assert set(pushed(run, api, report=True)) == OWN | {"report.html"}
    (run / "report.html").write_text("<td>/home/anna/cat.jpg</td>")
    with pytest.raises(ConfigError, match=r"report\.html names a place on a machine"):
        pushed(run, api, report=True)


@pytest.mark.parametrize("name", ["toys", "/toys", "anna/", "a/b/c"])
def test_a_name_without_an_owner_is_refused(finished_run: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="called owner/name, as anna/photos; got"):
        push(finished_run, name, license_id="mit", dry_run=True)


@pytest.mark.parametrize("text", ["/home/anna/photos", "C:\\Users\\anna", "~/photos/all"])
def test_places_of_this_machine_are_found(
    text: str, finished_run: Path, api: FakeApi, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    tree = json.loads((run / "model.json").read_text("utf-8"))
    tree["data"]["root"] = text
    tree["card_sha256"] = card_sum(tree)
    (run / "model.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"people or machines: .*model\.json names a place"):
        pushed(run, api)
    assert not api.commits


def test_the_user_and_the_machine_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "annemarie")
    monkeypatch.setattr("platform.node", lambda: "workhorse")
    (line,) = identifying("log", "by annemarie, on a horse")
    assert line == "log names its user: annemarie"
    assert "this machine: workhorse" in "".join(identifying("log", "at workhorse/3"))
    monkeypatch.setattr(getpass, "getuser", lambda: "data")  # as of a service: it names nobody
    assert not list(identifying("report.html", "<p>training data</p>"))
    assert not list(identifying("page", 'src="data:image/jpeg;base64,/9j/4AAQ/x" a/b 1/2'))


@pytest.mark.parametrize(
    "word", ["trmml", "data", "settings", "training", "encoder", "images", "held", "anna", "toys"]
)
def test_a_user_or_machine_called_as_what_trmml_writes_can_push(
    word: str, finished_run: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: word)
    monkeypatch.setattr("platform.node", lambda: word)
    encoder = "hf-hub:someone/else"
    assert set(pushed(finished_run, api, encoder=encoder)) == OWN


@pytest.mark.parametrize("place", ["category_names", "root", "template", "encoder_spec"])
def test_the_user_is_found_in_what_people_chose(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "training")
    tree = {"training": {"views": 1}, "made": {place: "the training of"}}
    assert list(identifying("model.json", json.dumps(tree))) == [
        "model.json names its user: training"
    ]
    assert not list(identifying("model.json", json.dumps({**tree, "made": "training"})))


PLACES = [
    "<td>/home/anna/photos/x.jpg</td>", "see file:///home/anna/photos", "`/home/anna/x`",
    "|/home/anna/x|", "[/home/anna/x]", "a;/home/anna/x", "to anna.b@example.org.",
    "<a title='&#47;home&#47;anna&#47;x'>",
]  # fmt: skip


@pytest.mark.parametrize("text", PLACES)
def test_places_are_found_in_a_page(text: str) -> None:
    assert len(list(identifying("report.html", f"<p>{text}</p>"))) == 1


def test_places_are_found_behind_the_escapes_of_json() -> None:
    for place in ("\\\\srv\\share\\x", "/home/anna/caf\u00e9", "C:\\Users\\anna\\x"):
        assert len(list(identifying("model.json", json.dumps({"a": [{"b": place}]})))) == 1


@pytest.mark.parametrize(
    "text",
    ["https://arxiv.org/abs/2407.18520", "image/png; 1/2/3", "<td>a</td></tr></table>",
     "hf-hub:anna/toy-encoder", "ViT-B-16:laion2b_s34b_b88k", "(+/-) and/or"],
)  # fmt: skip
def test_what_names_no_place_is_none(text: str) -> None:
    assert not list(identifying("report.html", text))


def test_two_that_pull_one_commit_at_once(
    finished_run: Path, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path))
    pushed(finished_run, api)
    original, other = api.hf_hub_download, []

    def slow(*given: object, **how: object) -> str:
        if not other:  # meanwhile another process pulls it whole
            other.append(None)
            other.append(pull(f"hf:{NAME}", api=api))
        return original(*given, **how)

    monkeypatch.setattr(api, "hf_hub_download", slow)
    assert pull(f"hf:{NAME}", api=api) == other[1]


def test_usage_data_are_switched_off_before_the_hub_is_imported() -> None:
    code = (
        "import trmml.hub.repository, huggingface_hub.constants as c;"
        "assert c.HF_HUB_DISABLE_TELEMETRY"
    )
    own = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    subprocess.run([sys.executable, "-c", code], check=True, env=own)


def test_the_hub_says_no(finished_run: Path, api: FakeApi) -> None:
    with pytest.raises(TrmmlError, match="did not serve anna/other: 404"):
        pull("anna/other", api=api)


# The card -----------------------------------------------------------------------------------


def test_the_card_parses_and_has_the_run_s_figures(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    figures = {"map": 81.25, "of1": 70.0, "cf1": None, "images": 16, "categories": 4}
    results = {"methods": {"zero-shot": {**figures, "map": 50.0}, "trmml": figures}}
    (run / "results.json").write_text(json.dumps(results))
    text = write_card(run, NAME, license_id="cc-by-4.0", encoder=SPEC, dataset="toys")
    card = hub.ModelCard(text)
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("trmml", "image-classification")
    assert (data.license, data.base_model) == ("cc-by-4.0", "anna/toy-encoder")
    assert data.base_model_relation == "adapter" and "missing-labels" in data.tags
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean-average-precision", 81.25)
    assert (result.task_type, result.dataset_name) == ("image-classification", "toys")
    own = load_card(run)
    assert f"mAP is {100 * own.chosen['held_out_map']:.1f}" in card.text.replace("\n", " ")
    again = "Held-out figures are of the model before it was trained again on all images."
    assert (again in card.text) == bool(own.chosen.get("refit"))
    assert "from a clone of trmml: pip install '.[hub]'. Then" in card.text
    assert f"hf:{NAME}" in card.text and "| trmml | 81.2 | 70.0 | - |" in card.text
    for name, threshold in zip(own.category_names, own.calibration.thresholds, strict=True):
        assert f"| {name} | {float(threshold):.3f} |" in card.text


def test_without_test_images_no_figure_is_claimed(finished_run: Path) -> None:
    card = hub.ModelCard(write_card(finished_run, NAME, license_id="mit", encoder=SPEC))
    assert card.data.eval_results is None and "No test images were given" in card.text


def test_a_licence_must_be_named(finished_run: Path) -> None:
    with pytest.raises(ConfigError, match="--license takes a name"):
        write_card(finished_run, NAME, license_id="My Licence")


# Hostile repositories -----------------------------------------------------------------------


def _with(name: str, content: bytes):
    return lambda files: {**files, name: content}


def _changed(name: str, **values: object):
    """A file of JSON with other values; the checksum of a card is made anew."""

    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        tree = {**json.loads(files[name]), **values}
        if "card_sha256" in tree:
            tree["card_sha256"] = card_sum(tree)
        return {**files, name: json.dumps(tree).encode()}

    return change


HOSTILE = {
    "pickle": (_with("weights.pkl", b"\x80\x04."), r"weights\.pkl is code or a pickle"),
    "code": (_with("deep/setup.py", b"import os"), r"setup\.py is code or a pickle"),
    "factory": (_changed("model.json", encoder_spec="evil.py:make"), "its encoder 'evil.py:make'"),
    "module": (_changed("model.json", encoder_spec="os:system"), "its encoder 'os:system' is code"),
    "place": (_changed("model.json", encoder_spec="RN50:/etc/x.pt"), "a place on one machine"),
    "traversal": (_with("../../.bashrc", b"x"), "leads out of its folder"),
    "absolute": (_with("/etc/passwd", b"x"), "leads out of its folder"),
    "drive": (_with("C:\\evil.json", b"x"), "leads out of its folder"),
    "huge": (_with("settings.json", b" " * (2**20 + 1)), "has 1048577 bytes; in a run it has at"),
    "format": (_changed("model.json", format=99), "has format 99; this version of trmml reads"),
    "other": (_changed("config.json", library="keras"), "does not say that trmml wrote it"),
    "checksum": (_with("model.safetensors", save({"a": torch.ones(1)})), "is not the file that"),
    "settings": (_with("settings.json", b"{}"), "settings.json has another checksum"),
    "deep": (_with("model.json", b"[" * 100_000), "is no JSON object"),
    "empty": (lambda files: {"README.md": b"hello"}, "it lacks model.safetensors, model.json"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_repositories_are_refused_in_a_sentence(
    kind: str, finished_run: Path, api: FakeApi, tmp_path: Path
) -> None:
    change, words = HOSTILE[kind]
    api.put(NAME, change(pushed(finished_run, api)))
    with pytest.raises(CheckpointError, match=words):
        pull(NAME, tmp_path / "back", api=api)
    assert list(tmp_path.iterdir()) == []


def _encoder_of_config(folder: Path) -> None:
    text = {
        **TEXT, "hf_tokenizer_name": "evil/enc", "tokenizer_kwargs": {"trust_remote_code": True}
    }  # fmt: skip
    config = {"model_cfg": {**CONFIGS["tiny-RN"], "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(state(), folder / "open_clip_model.safetensors")


def _encoder_of_archive(folder: Path) -> None:
    config = {"model_cfg": CONFIGS["tiny-RN"]}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_openai_archive(state(), folder / "open_clip_pytorch_model.bin")


HOSTILE_ENCODERS = {
    "tokenizer": (_encoder_of_config, "gives the tokenizer trust_remote_code"),
    "archive": (_encoder_of_archive, "Of the Hub only safetensors are read"),
}


@pytest.mark.parametrize("kind", HOSTILE_ENCODERS)
def test_an_encoder_that_a_pulled_run_names_runs_nothing(
    kind: str,
    finished_run: Path,
    api: FakeApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, words = HOSTILE_ENCODERS[kind]
    files, ran = tmp_path / "encoder", list[str]()
    files.mkdir()
    make(files)

    def download(model_id: str, filename: str = "open_clip_pytorch_model.bin") -> str:
        assert model_id == "evil/enc"
        if not (files / filename).is_file():
            raise FileNotFoundError(filename)
        return str(files / filename)

    def tokenizer(name: str, **options: object) -> object:
        ran.append(name)
        return open_clip.SimpleTokenizer()

    monkeypatch.setattr(clip_load, "download_pretrained_from_hf", download)
    monkeypatch.setattr(open_clip, "get_tokenizer", tokenizer)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: ran.append("archive"))
    pushed(finished_run, api, encoder="hf-hub:evil/enc")
    back = pull(NAME, tmp_path / "back", api=api)
    with pytest.raises(EncoderError, match=words):
        Tagger.load(back, also=["boat"])
    assert ran == []


def test_code_is_refused_before_anything_is_fetched(finished_run: Path, api: FakeApi) -> None:
    api.put(NAME, {**pushed(finished_run, api), "x.py": b""})
    with pytest.raises(CheckpointError, match="is code"):
        pull(NAME, api=api)
    assert api.fetched == []


def test_names_of_encoders() -> None:
    for spec in ("bundled", "RN101:openai", "ViT-B-16:laion2b_s34b_b88k", SPEC):
        assert encoder_fault(spec) is None
    for spec in ("hf-hub:../x", "hf-hub:/home/x", "x.safetensors", "RN101:w.safetensors", None):
        assert encoder_fault(spec)


def test_the_pushed_tensors_are_the_run_s(finished_run: Path, api: FakeApi) -> None:
    content = pushed(finished_run, api)["model.safetensors"]
    assert content == (finished_run / "model.safetensors").read_bytes()
    with safe_open(finished_run / "model.safetensors", framework="pt") as file:
        assert not any(name in file.keys() for name, _ in ToyEncoder().named_parameters())
