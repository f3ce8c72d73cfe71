"""`trmml hub` and `hf:NAME` as a user types them."""

import json
from pathlib import Path

import pytest

from tests.cli.test_main import good, run
from tests.conftest import TOY_SPEC, ToyImages
from tests.hub.fake_api import FakeApi

pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
ENCODER = ("--encoder", "hf-hub:anna/toy-encoder")


@pytest.fixture(autouse=True)
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApi:
    """A Hub in memory, and an empty cache."""
    fake = FakeApi()
    monkeypatch.setattr("trmml.hub.repository._api", lambda: fake)
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "cache"))
    return fake


def test_push_pull_and_tag(
    finished_run: Path, api: FakeApi, toy_images: ToyImages, tmp_path: Path
) -> None:
    words = ["hub", "push", finished_run, "anna/toys", "--license", "mit", *ENCODER]
    assert good(*words, "--dry-run").endswith("nothing was sent\n") and not api.commits
    assert json.loads(good(*words, "--json"))["commit"] in api.commits["anna/toys"]
    back = tmp_path / "back"
    assert good("hub", "pull", "anna/toys", "--out", back) == f"{back}\n"
    image = sorted(toy_images.test.iterdir())[0]
    wanted, found = (
        good("tag", name, image, "--encoder", TOY_SPEC, "--jsonl")
        for name in (finished_run, "hf:anna/toys")
    )
    assert found == wanted


def test_card(finished_run: Path) -> None:
    words = ["hub", "card", finished_run, "anna/toys", *ENCODER]
    assert good(*words, "--license", "mit").startswith("---\n")
    assert run(*words).exit_code == 2  # the licence is missing


def test_a_run_on_the_hub_writes_sidecars_and_labels_for_other_programs(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    good("hub", "push", finished_run, "anna/toys", "--license", "mit", *ENCODER)
    toy, name, folder = ["--encoder", TOY_SPEC], "hf:anna/toys", tmp_path / "tree"
    book, new = tmp_path / "sidecars.jsonl", tmp_path / "new.csv"
    good("sidecar", "write", name, toy_images.test, "--to", folder, "--ledger", book, *toy)
    assert list(folder.rglob("*.xmp"))
    good("data", "export", "wide", name, new, "--images", toy_images.test, *toy)
    assert new.is_file()


def test_nothing_is_written_into_the_cache(finished_run: Path, toy_images: ToyImages) -> None:
    good("hub", "push", finished_run, "anna/toys", "--license", "mit", *ENCODER)
    for words, instead in (
        (["serve", "hf:anna/toys"], "give --answers FILE, or --read-only"),
        (["report", "hf:anna/toys"], "trmml hub pull"),
        (["evaluate", "hf:anna/toys", "--images", toy_images.test, "--report"], "trmml hub pull"),
    ):
        result = run(*words)
        assert result.exit_code == 2
        said = " ".join(result.stderr.replace("│", " ").split())
        assert "would be kept in the cache" in said and instead in said


def test_errors_before_the_command_begins_are_one_line_too(
    toy_images: ToyImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Path:
        raise OSError(28, "No space left on device", "/cache/model.json")

    monkeypatch.setattr("trmml.hub.repository.pull", broken)
    result = run("tag", "hf:anna/toys", toy_images.test)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: /cache/model.json: No space left on device")
    result = run("tag", "hf:anna/toys", toy_images.test, "--debug")
    assert isinstance(result.exception, OSError)


def test_what_the_hub_lacks_is_said_in_a_sentence(toy_images: ToyImages) -> None:
    result = run("tag", "hf:anna/none", toy_images.test)
    assert result.exit_code == 1
    assert "Error: the Hub did not serve anna/none" in result.stderr
