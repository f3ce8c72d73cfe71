"""The generated world: the same from a seed, true about itself, and hard in the intended way."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from trmml.errors import ConfigError, DataError
from trmml.synthetic import CATEGORY_NAMES, draw_scene, write_scenes
from trmml.synthetic.captions import write_caption
from trmml.synthetic.categories import CATEGORIES
from trmml.synthetic.compose import SMALLEST_VISIBLE_SHARE, draw_item, render
from trmml.synthetic.layout import Item, Layout, draw_layout
from trmml.synthetic.settings import SETTINGS
from trmml.synthetic.styles import CAPTION, DEMO, SceneStyle, find_style

IMAGES, SEED, SHARE = 12, 5, 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "world"
    write_scenes(path, images=IMAGES, seed=SEED, known_share=SHARE, processes=1)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def item(category: int, x: float = 0.5, y: float = 0.5, side: float = 0.4) -> Item:
    return Item(category, x, y, side, 0.0, False, CATEGORIES[category].colours[0])


def test_a_covered_object_loses_its_label_and_its_box() -> None:
    ball, house = CATEGORY_NAMES.index("ball"), CATEGORY_NAMES.index("house")
    hidden = Layout(220, 200, None, (item(ball, side=0.2), item(house, side=0.6)))
    scene = render(hidden, CAPTION, np.random.default_rng(0))
    assert scene.category_indices == (house,)
    assert [box.category for box in scene.boxes] == [house]
    apart = Layout(220, 200, None, (item(ball, x=0.2, side=0.2), item(house, x=0.65, side=0.5)))
    scene = render(apart, CAPTION, np.random.default_rng(0))
    assert scene.category_indices == (house, ball)
    left = next(box for box in scene.boxes if box.category == ball)
    assert left.visible_share == 1.0
    assert abs((left.left + left.right) / 2 - 0.2 * 220) < 6


def test_an_object_half_outside_is_visible_by_half() -> None:
    ball = CATEGORY_NAMES.index("ball")
    layout = Layout(200, 200, None, (item(ball, x=0.0),))
    (box,) = render(layout, CAPTION, np.random.default_rng(0)).boxes
    assert box.left == 0
    assert 0.42 < box.visible_share < 0.58


@pytest.mark.parametrize("style", [DEMO, CAPTION], ids=["demo", "caption"])
@pytest.mark.parametrize("index", range(len(CATEGORIES)), ids=CATEGORY_NAMES)
def test_every_category_can_be_drawn(index: int, style: SceneStyle) -> None:
    tile = draw_item(item(index), 60, style, np.random.default_rng(index))
    alpha = np.asarray(tile.getchannel("A")) > 127
    assert 0.04 * 60 * 60 < alpha.sum() < 1.3 * 60 * 60
    drawn = np.asarray(tile.convert("RGB"))[alpha]
    assert drawn.std(axis=0).max() > 5  # more than one flat silhouette


def test_there_are_enough_different_categories() -> None:
    assert len(set(CATEGORY_NAMES)) == len(CATEGORY_NAMES) == 48
    for setting in SETTINGS:
        assert set(setting.frequencies) <= set(CATEGORY_NAMES)


def test_the_same_seed_gives_the_same_files_with_any_number_of_processes(
    folder: Path, tmp_path: Path
) -> None:
    write_scenes(tmp_path / "again", images=IMAGES, seed=SEED, known_share=SHARE, processes=2)
    assert contents(tmp_path / "again") == contents(folder)


def test_a_larger_world_begins_with_the_smaller_one(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "small", images=3, seed=SEED, processes=1)
    whole, part = contents(folder), contents(tmp_path / "small")
    assert all(part[name] == whole[name] for name in part if name.endswith(".jpg"))


def test_tables_say_the_same_as_each_other(folder: Path) -> None:
    labels = pl.read_csv(folder / "labels.csv")
    boxes = pl.read_csv(folder / "boxes.csv")
    captions = pl.read_csv(folder / "captions.csv")
    assert labels.columns == ["image", *CATEGORY_NAMES]
    assert labels.height == captions.height == IMAGES
    assert captions["image"].to_list() == labels["image"].to_list()
    for row, caption in zip(labels.iter_rows(named=True), captions["caption"], strict=True):
        seen = {name for name in CATEGORY_NAMES if row[name] == 1}
        here = boxes.filter(pl.col("image") == row["image"])
        assert set(here["category"]) == seen
        assert all(name in caption for name in seen)
        with Image.open(folder / row["image"]) as image:
            assert image.format == "JPEG"
            assert (here["left"] >= 0).all() and (here["right"] <= image.width).all()
            assert (here["top"] >= 0).all() and (here["bottom"] <= image.height).all()
    assert (boxes["left"] < boxes["right"]).all() and (boxes["top"] < boxes["bottom"]).all()
    assert boxes["visible_share"].is_between(SMALLEST_VISIBLE_SHARE, 1.0).all()


def test_the_partial_table_follows_the_rule(folder: Path) -> None:
    full = pl.read_csv(folder / "labels.csv").drop("image").to_numpy()
    partial = pl.read_csv(folder / "labels_partial.csv").drop("image")
    known = np.random.RandomState(SEED).random_sample(full.shape) < SHARE
    blanks = np.stack([partial[name].is_null().to_numpy() for name in partial.columns], axis=1)
    assert np.array_equal(~blanks, known)
    assert np.array_equal(partial.fill_null(-1).to_numpy()[known], full[known])


def test_nothing_but_the_world_is_written(folder: Path) -> None:
    assert {path.name for path in folder.parent.iterdir()} == {"world"}
    tables = {"labels.csv", "labels_partial.csv", "captions.csv", "boxes.csv", "README.md"}
    assert {path.name for path in folder.iterdir()} == {"images", *tables}
    assert "only 30% of the entries are known" in (folder / "README.md").read_text()
    assert len(list((folder / "images").iterdir())) == IMAGES


def test_frequencies_have_a_long_tail() -> None:
    counts: Counter[int | None] = Counter()
    for k in range(600):
        items = draw_layout(np.random.default_rng([1, k]), DEMO).items
        objects = [one.category for one in items if one.category is not None]
        assert 2 <= len(objects) <= 7
        counts.update(set(objects))
    shares = sorted((counts[index] / 600 for index in range(len(CATEGORIES))), reverse=True)
    assert 0.25 < shares[0] < 0.5
    assert 0.005 < shares[-1] < 0.035
    assert shares[len(shares) // 2] < 0.09


def test_things_are_seen_where_they_belong() -> None:
    boats: Counter[str] = Counter()
    boat = CATEGORY_NAMES.index("boat")
    for k in range(600):
        layout = draw_layout(np.random.default_rng([2, k]), DEMO)
        if layout.setting and boat in {one.category for one in layout.items}:
            boats[layout.setting.phrase] += 1
    assert boats["by the sea"] > 0.6 * boats.total()


def test_one_random_stream_gives_one_image() -> None:
    first, second = (draw_scene(np.random.default_rng(8), "demo") for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.boxes == second.boxes and first.caption == second.caption
    other = draw_scene(np.random.default_rng(8), "caption")
    assert other.image.tobytes() != first.image.tobytes()


def test_a_caption_names_each_category_once() -> None:
    cat, sun = CATEGORY_NAMES.index("cat"), CATEGORY_NAMES.index("sun")
    caption = write_caption(
        np.random.default_rng(0), [(cat, "grey"), (sun, "yellow"), (cat, "black")], "in a park"
    )
    assert caption.count("cat") == 1 and "sun" in caption and caption.endswith("in a park")


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="expected an empty or absent folder"):
        write_scenes(tmp_path, images=1, seed=0)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match="found a file"):
        write_scenes(tmp_path / "mine", images=1, seed=0)


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(ConfigError, match="style: expected 'demo' or 'caption', got 'oil'"):
        find_style("oil")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"known_share": 0.0}, r"known_share: expected a share in \(0, 1\], got 0.0"),
        ({"processes": 0}, "processes: expected at least 1 or None, got 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"images": 1, "seed": 0} | change
    with pytest.raises(ConfigError, match=message):
        write_scenes(tmp_path / "world", **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "world").exists()
