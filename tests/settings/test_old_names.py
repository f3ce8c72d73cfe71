"""Settings that were written under earlier names are those of today, both ways."""

import json
from pathlib import Path

from trmml.settings.old_names import (
    GONE,
    RENAMED,
    current_name,
    current_names,
    first_name,
    first_names,
    with_added,
)
from trmml.settings.sections import Settings, parse_settings, setting_names

RUN = Path(__file__).parents[1] / "training" / "run_format_5"


def test_every_old_name_has_a_setting_today() -> None:
    names = {*setting_names(), *Settings.model_fields}
    for old, new in RENAMED.items():
        assert new in names and old not in names
        assert current_name(old) == new and first_name(new) == old


def test_settings_of_format_5_survive_both_ways() -> None:
    tree = json.loads((RUN / "settings.json").read_text("utf-8"))
    settings = parse_settings(with_added(current_names(tree)), "settings.json")
    # Fingerprints of grids and runs are hashes of this: what was finished then is finished now.
    tree["image_branch"]["learn_again"] = GONE["image_head.learn_again"]
    assert first_names(settings.model_dump()) == tree
