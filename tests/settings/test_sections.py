import pytest

from trmml.baselines.coop import CoOpSettings
from trmml.benchmark.catalog import METHODS
from trmml.benchmark.method_settings import read_settings
from trmml.errors import ConfigError
from trmml.settings.files import load_settings, preset_names
from trmml.settings.sections import Settings, changed, setting_names, validate


def test_overrides_are_read_as_toml_then_as_text():
    settings = load_settings(
        None,
        ["training.epochs=3", "prompts.train_context=true", "prompts.template=an image of a {}"],
    )
    assert settings.training.epochs == 3
    assert settings.prompts.train_context is True
    assert settings.prompts.template == "an image of a {}"


def test_a_file_comes_first_and_overrides_win(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[training]\nepochs = 5\nbatch_size = 8\n")
    settings = load_settings(path, ["training.epochs=2"])
    assert (settings.training.epochs, settings.training.batch_size) == (2, 8)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_differ_from_the_defaults(name: str):
    assert load_settings(name) != Settings()


def test_what_a_search_wrote_is_read_by_its_part(tmp_path):
    path = tmp_path / "trmml.toml"
    path.write_text(
        "[partial.training]\nepochs = 5\n\n[single_positive.training]\nepochs = 7\n\n"
        '[provenance.partial]\nground = "corel5k"\n'
    )
    assert load_settings(path).training.epochs == 5
    single = load_settings(path, ["training.seed=3"], protocol="single_positive").training
    assert (single.epochs, single.seed) == (7, 3)
    path.write_text("[partial.training]\nepochs = 5\n")
    with pytest.raises(ConfigError, match="has settings for partial, none for single_positive"):
        load_settings(path, protocol="single_positive")


def test_every_setting_round_trips():
    settings = load_settings("as-published")
    assert Settings.model_validate(settings.model_dump()) == settings
    assert "losses.contrastive" in setting_names()


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().training.epochs = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", r"no setting 'training.epoch'; did you mean training.epochs"),
        ("trainng.epochs=3", r"no setting 'trainng'; did you mean"),
        ("training.epochs=many", r"training.epochs = 'many'"),
        ("training.epochs=0", r"training.epochs = 0.*greater than or equal to 1"),
        ("training.clip_norm=inf", r"training.clip_norm = inf: Input should be a finite number"),
        (
            "regions.hidden_rank=-1",
            r"setting regions.hidden_rank = -1: .*'full'; or: .*greater than or equal to 0$",
        ),
        ("epochs=3", r"expected --set section.name=value, got 'epochs=3'; did you mean"),
        ("training.epochs", r"expected --set section.name=value"),
        (
            "opinions.weigh=false",
            r"no setting 'opinions'; opinions.weigh is now stacking.fit_weights",
        ),
        ("hidden_regions.use=true", r"hidden_regions.use is now csra_head.use"),
    ],
)
def test_errors_name_the_setting(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_settings(None, [override])


def test_a_file_with_an_old_name_gets_the_new_one(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text("[partial.image_branch]\nuse = false\nwidth = 8\n", "utf-8")
    with pytest.raises(ConfigError, match=r"use is now image_head.use, .*now image_head.width"):
        load_settings(path)


def test_unknown_source_and_broken_toml(tmp_path):
    with pytest.raises(ConfigError, match=r"no file nowhere.toml, nor a preset.*are as-published"):
        load_settings("nowhere.toml")
    path = tmp_path / "broken.toml"
    path.write_text("[training\n")
    with pytest.raises(ConfigError, match=r"broken.toml is no valid TOML"):
        load_settings(path)


def test_epochs_that_are_named_are_made_as_they_are(tmp_path):
    (tmp_path / "more.toml").write_text("[training]\nepochs = 2\nleast_steps = 50\n")
    (tmp_path / "trmml.toml").write_text("[partial.training]\nepochs = 2\n")
    trmml = METHODS["trmml"]
    for settings, expected in (
        (Settings(), 1000),
        (Settings(training={"epochs": 2}), 0),
        (load_settings(None, ["training.epochs=2"]), 0),
        (load_settings("paper", ["training.epochs=2"]), 0),
        (load_settings(None, ["training.least_steps=50", "training.epochs=2"]), 50),
        (load_settings(tmp_path / "more.toml"), 50),
        (load_settings(tmp_path / "more.toml", ["training.epochs=3"]), 0),
        (changed(Settings(), {"training.epochs": 2}), 0),
        (changed(Settings(), {"training.least_steps": 50, "training.epochs": 2}), 50),
        (changed(Settings(training={"epochs": 2}), {"training.seed": 1}), 0),
        (changed(Settings(), {"training.epochs": 2, "training.least_steps": 50}), 50),
        (changed(Settings(), {"image_head.epochs": 2}), 1000),
        (read_settings(trmml, tmp_path).values["partial"], 0),
        (read_settings(trmml, tmp_path).values["single_positive"], 1000),
    ):
        assert settings.training.least_steps == expected


def test_changed_keeps_the_defaults_of_the_method():
    settings = changed(CoOpSettings(), {"training.seed": 4, "matching.scale": 30})
    assert (settings.training.seed, settings.matching.scale) == (4, 30)
    assert settings.training.least_steps == CoOpSettings().training.least_steps != 0
    assert type(settings) is CoOpSettings
    with pytest.raises(ConfigError, match=r"there is no setting 'matching\.scal'; did you mean"):
        changed(CoOpSettings(), {"matching.scal": 30})
    with pytest.raises(ConfigError, match=r"setting matching\.scale = -1: Input should be greater"):
        changed(CoOpSettings(), {"matching.scale": -1})
    with pytest.raises(ConfigError, match=r"there is no setting 'regions"):
        changed(CoOpSettings(), {"regions.learn": True})
    with pytest.raises(ConfigError, match=r"x.toml: training = 3, but is a section: \[training\]"):
        validate(CoOpSettings, {"training": 3}, "x.toml")
