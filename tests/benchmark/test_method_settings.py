import tomllib
from pathlib import Path

import pytest

from trmml.benchmark.catalog import METHODS
from trmml.benchmark.method_settings import (
    default_settings,
    parse_method_settings,
    read_settings,
    write_settings,
)
from trmml.errors import ConfigError
from trmml.settings.files import STARTS, load_settings, to_toml
from trmml.settings.sections import TrainingSettings

PROBE = METHODS["probe-masked"]


def test_each_protocol_has_settings_of_its_own(tmp_path: Path) -> None:
    card = {"dataset": "toys", "space": {"training.epochs": {"low": 1}}}
    write_settings(PROBE, tmp_path, "partial", {"training.learning_rate": 0.004}, card)
    path = write_settings(PROBE, tmp_path, "single_positive", {"training.epochs": 7}, {})
    found = read_settings(PROBE, tmp_path)
    start = default_settings(PROBE).values["partial"].training
    partial, single = (found.values[p].training for p in ("partial", "single_positive"))
    assert partial == start.model_copy(update={"learning_rate": 0.004})
    assert single == start.model_copy(update={"epochs": 7})
    # Cells repeat where settings come from, but not the whole space.
    assert found.provenance["partial"] == {"from": "probe-masked.toml", "dataset": "toys"}
    assert tomllib.loads(path.read_text())["provenance"]["partial"] == {
        "method": "probe-masked",
        **card,
    }


def test_fit_starts_from_what_the_searched_method_starts_from(tmp_path: Path) -> None:
    changes = {"training.learning_rate": 0.002, "losses.pseudo": 0.0}
    for key, preset in STARTS.items():
        method = METHODS[key]
        assert load_settings(preset).model_dump() == method.settings().model_dump()
        path = write_settings(method, tmp_path, "partial", changes, {})
        wanted = read_settings(method, tmp_path).values["partial"].model_dump()
        moved = path.rename(tmp_path / "mine.toml")
        assert load_settings(moved).model_dump() == wanted
        assert not (tmp_path / f"{key}.toml").exists()


def test_files_of_before_are_of_the_method_that_they_are_called_by(tmp_path: Path) -> None:
    for name in ("trmml-paper", "trmml-as-published", "trmml", "mine"):
        path = tmp_path / f"{name}.toml"
        path.write_text("[partial.training]\nseed = 3\n")
        paper = name in ("trmml-paper", "trmml-as-published")
        wanted = load_settings("paper" if paper else None, ["training.seed=3"])
        assert load_settings(path) == wanted


def test_fit_refuses_what_was_searched_for_another_method(tmp_path: Path) -> None:
    path = write_settings(PROBE, tmp_path, "partial", {"training.learning_rate": 0.004}, {})
    with pytest.raises(ConfigError, match=r"got those of probe-masked in .* take another file"):
        load_settings(path)


def test_published_settings_name_their_method() -> None:
    found = sorted(Path(__file__).parents[2].glob("benchmarks/results/*/settings/*.toml"))
    assert found
    for path in found:
        told = tomllib.loads(path.read_text("utf-8"))["provenance"]
        assert {part["method"] for part in told.values()} == {path.stem}


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert read_settings(PROBE, tmp_path) == default_settings(PROBE)
    (tmp_path / "probe-masked.toml").write_text("[partial.training]\nepochs = 3\n")
    found = read_settings(PROBE, tmp_path)
    assert found.values["partial"].training.epochs == 3
    assert found.provenance["partial"] == {"from": "probe-masked.toml"}
    assert found.values["single_positive"] == default_settings(PROBE).values["single_positive"]


def test_a_section_given_in_part_keeps_the_methods_own_defaults() -> None:
    method = METHODS["coop"]
    own = method.settings().training.least_steps  # type: ignore[attr-defined]
    assert own != TrainingSettings().least_steps
    found = parse_method_settings(method, {"training": {"seed": 3}}, "test")
    assert (found.training.least_steps, found.training.seed) == (own, 3)


def test_toml_is_read_as_it_was_written() -> None:
    tree = {
        "a-b": {"c": {"x": 1, "y": 0.5, "z": 'say "hi"', "flag": True}, "empty": {}},
        "with.dot": {"list": ["10 %", "ü"]},
    }
    assert tomllib.loads(to_toml(tree)) == tree
    assert to_toml({"a": {"nothing": None, "one": 1}}) == "[a]\none = 1\n"


def test_a_file_with_the_old_key_of_a_method_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trmml-as-published.toml"
    path.write_text("[partial.training]\nepochs = 3\n")
    paper = METHODS["trmml-paper"]
    assert read_settings(paper, tmp_path).values["partial"].training.epochs == 3
    path.write_text("[partial.training]\nepochs = 3\n[losses]\npseudo = 0.7\n")
    with pytest.raises(ConfigError, match=r"got \[losses\]"):
        load_settings(path)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "probe-masked.toml"
    for text, said in (
        ("[partial.training]\nlerning_rate = 1\n", "no setting 'training.lerning_rate'; did you"),
        ("[partial.training]\nepochs = 0\n", r"partial: setting training\.epochs = 0: Input"),
        ("[partial\n", "is no valid TOML"),
        ("[training]\nepochs = 3\n", r"expected \[partial\], .*got \[training\]; write a setting"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_settings(PROBE, tmp_path)
    with pytest.raises(ConfigError, match="expected a folder with <method>"):
        read_settings(PROBE, tmp_path / "none")
