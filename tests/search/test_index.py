"""Making, updating and searching an index on disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ToyImages
from tests.test_images import HEIC
from tests.toy import ToyEncoder
from trmml.datasets.formats.folder import read_folder
from trmml.errors import CheckpointError, DataError
from trmml.features import store
from trmml.features.extract import Encoding, encode_images
from trmml.method.prompts import encode_templates
from trmml.search import build as build_module
from trmml.search import index as index_module
from trmml.search import reference as reference_module
from trmml.search import rows as rows_module
from trmml.search.approximate import (
    FEWEST,
    drop_if_few,
    has_vector_index,
    index_vectors,
    nearest,
    recall,
)
from trmml.search.build import Built, build_index
from trmml.search.encoder import EncoderEmbedder, patches_under
from trmml.search.in_memory import FeaturesInMemory
from trmml.search.index import Found, Index
from trmml.search.query import Query, parse_query
from trmml.search.reference import Reference
from trmml.search.sheet import write_sheet
from trmml.search.table import READABLE, IndexCard, connect, open_images
from trmml.storage.hashes import hash_file
from trmml.tagging.tagger import Tagger

pytest.importorskip("lancedb", reason="the extra `search` is not installed")


@pytest.fixture
def photos(toy_images: ToyImages, tmp_path: Path) -> Path:
    """A folder of its own, with a folder below it."""
    folder = tmp_path / "photos"
    shutil.copytree(toy_images.test, folder)
    (folder / "more").mkdir()
    shutil.copy2(toy_images.train / "000.png", folder / "more" / "it's.png")
    return folder


def opened(tmp_path: Path, **changes: object) -> Index:
    def embedder(card: IndexCard) -> EncoderEmbedder:
        return EncoderEmbedder(card, encoder=ToyEncoder())

    return Index(tmp_path / "index", embedder, **changes)  # type: ignore[arg-type]


def made_table(folder: Path, rows: np.ndarray) -> Any:
    """A table of images with these features, called by their numbers."""
    import pyarrow as pa

    width = rows.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float16).ravel()), width)
    none = pa.array([[]] * len(rows), pa.list_(pa.string()))
    columns = {
        "image": [str(number) for number in range(len(rows))],
        "image_feature": column,
        **dict.fromkeys(("given", "absent", "present"), none),
        "width": pa.nulls(len(rows), pa.int32()),
        "error": pa.nulls(len(rows), pa.string()),
    }
    return connect(folder).create_table("images", pa.table(columns))


def names(found: Found) -> list[str]:
    return [hit.image for hit in found.hits]


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p): (hash_file(p), p.stat().st_mtime_ns) for p in files}


# Making -------------------------------------------------------------------------------------


def test_rows_hold_what_encoder_and_tagger_say(
    build: Callable[..., Built], photos: Path, finished_run: Path, tmp_path: Path
) -> None:
    before = contents(photos)
    assert build() == Built(images=17, new=17, changed=0, removed=0, unreadable=0)
    assert contents(photos) == before
    table, card = open_images(tmp_path / "index")
    rows = {row["image"]: row for row in table.search().limit(None).to_arrow().to_pylist()}
    paths = [photos / name for name in rows]
    features = encode_images(paths, ToyEncoder()).source.batch(torch.arange(len(paths)))
    tagger = Tagger.load(finished_run, encoder=ToyEncoder())
    probabilities = tagger.score(features).probabilities
    assert card.category_names == list(tagger.category_names)
    for place, (name, row) in enumerate(rows.items()):
        assert np.allclose(row["image_feature"], features.image_feature[place], atol=1e-3)
        assert np.allclose(row["probability"], probabilities[place], atol=1e-3)
        assert row["sha256"] == hash_file(photos / name)
        assert (row["width"], row["height"], row["error"]) == (48, 48, None)
        assert (row["given"], row["absent"]) == ([], [])
        found = [c for c, p, t in zip(card.category_names, row["probability"], card.thresholds,
                                      strict=True) if p >= np.float16(t)]  # fmt: skip
        assert row["present"] == found


def test_a_disk_without_room_for_all_images_is_told_of_before_any_is_encoded(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "ROWS", 4)
    space = SimpleNamespace(free=store.SPARE_BYTES + 2000)  # for 8 images of 248 bytes
    encoding = Encoding(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "disk_usage", lambda path: space)
        with pytest.raises(DataError, match="features of 15 images need"):  # 2 are there twice
            build(encoding=encoding)
    assert not list((tmp_path / "store").glob("*/*.safetensors"))
    assert build(encoding=encoding).images == 17


def test_an_update_does_only_what_changed(
    build: Callable[..., Built], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    assert build() == Built(images=17, new=0, changed=0, removed=0, unreadable=0)
    (photos / "000.png").unlink()
    (photos / "001.png").rename(photos / "more" / "moved.png")
    shutil.copy2(photos / "003.png", photos / "002.png")
    Image.new("RGB", (30, 20)).save(photos / "new.png")
    assert build() == Built(images=17, new=2, changed=1, removed=2, unreadable=0)
    index = opened(tmp_path)
    assert "more/moved.png" in names(index.search(parse_query(["red"]), top=50))
    twins = index.search(parse_query(like=["003.png"]), top=1).hits
    assert twins[0].image == "002.png"


def test_labels_are_kept_replaced_and_move_with_their_image(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,red,violet\n000.png,1,0\n001.png,0,1\n")
    build(labels=read_folder(photos, table))
    (photos / "000.png").rename(photos / "z.png")
    build()
    table_of = open_images(tmp_path / "index")[0].search().limit(None).to_arrow().to_pylist()
    rows = {row["image"]: (row["given"], row["absent"]) for row in table_of}
    assert rows["z.png"] == (["red"], ["violet"]) and rows["001.png"] == (["violet"], ["red"])
    table.write_text("image,red,violet\nz.png,0,\n")
    assert build(labels=read_folder(photos, table)).changed == 2
    table_of = open_images(tmp_path / "index")[0].search().limit(None).to_arrow().to_pylist()
    rows = {row["image"]: (row["given"], row["absent"]) for row in table_of}
    assert rows["z.png"] == ([], ["red"]) and rows["001.png"] == ([], [])


def test_unreadable_images_are_rows_with_their_error_and_found_by_nothing(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    assert build().unreadable == 1
    assert "broken.png" not in names(opened(tmp_path).search(parse_query(["red"]), top=50))
    shutil.copy2(photos / "000.png", photos / "broken.png")
    assert build() == Built(images=18, new=0, changed=1, removed=0, unreadable=0)


def test_a_file_that_is_gone_and_a_feature_that_is_none_are_rows_with_their_error(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    (photos / "away.png").symlink_to(tmp_path / "nowhere.png")
    odd = hash_file(photos / "000.png")

    def known(sums: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {odd: (np.full(1, np.nan), np.zeros(1))}

    assert build(known=known) == Built(images=18, new=18, changed=0, removed=0, unreadable=2)
    rows = open_images(tmp_path / "index")[0].search().limit(None).to_list()
    errors = {row["image"]: row["error"] for row in rows if row["error"]}
    assert "there is no image" in errors["away.png"] and "not finite" in errors["000.png"]
    assert len(opened(tmp_path).search(parse_query(["red"]), top=50).hits) == 16
    # What still cannot be read is no change, and nothing is settled anew.
    version = open_images(tmp_path / "index")[0].version
    assert build(known=known) == Built(images=18, new=0, changed=0, removed=0, unreadable=2)
    assert open_images(tmp_path / "index")[0].version == version
    assert build().changed == 1


def test_sides_of_heic_images_are_known_before_one_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pi_heif")
    (tmp_path / "a.heic").write_bytes(HEIC)
    monkeypatch.setattr(Image, "ID", [form for form in Image.ID if form != "HEIF"])
    monkeypatch.setattr(Image, "OPEN", {form: Image.OPEN[form] for form in Image.ID})
    assert rows_module._sides_and_time(tmp_path / "a.heic") == (64, 64, None)


def test_a_folder_whose_name_is_no_text_is_refused_at_once(finished_run: Path) -> None:
    with pytest.raises(DataError, match=r"udce9.*rename"):
        build_index(finished_run, Path("caf\udce9"), "index")


def test_a_folder_of_broken_images_is_indexed_too(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    built = build_index(finished_run, folder, tmp_path / "index", encoder=ToyEncoder())
    assert (built.images, built.unreadable) == (1, 1)
    assert opened(tmp_path).search(parse_query(["red"]), least="auto").hits == []


def test_a_killed_build_goes_on(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trmml.search import build as module

    monkeypatch.setattr(module, "ROWS", 5)
    real, calls = module.rows_of, list[int]()

    def dies(*given: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "rows_of", dies)
    with pytest.raises(KeyboardInterrupt):
        build()
    assert len(opened(tmp_path)) == 10
    monkeypatch.setattr(module, "rows_of", real)
    assert build() == Built(images=17, new=7, changed=0, removed=0, unreadable=0)


@pytest.mark.parametrize("table", ["images", "reference", "replaced", "removed"])
def test_a_kill_while_a_table_is_made_leaves_none(
    build: Callable[..., Built], tmp_path: Path, table: str
) -> None:
    for part in ("data", "_versions", "_transactions"):
        (tmp_path / "index" / f"{table}.lance" / part).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no index"):
        opened(tmp_path)
    assert build() == Built(images=17, new=17, changed=0, removed=0, unreadable=0)
    assert len(opened(tmp_path)) == 17


def test_excluded_names_are_left_out(build: Callable[..., Built]) -> None:
    assert build(exclude=["more/*", "00?.png"]).images == 6
    with pytest.raises(DataError, match="leaves none of the 17"):
        build(exclude=["*"])


def test_another_run_is_refused_or_replaces(build: Callable[..., Built], tmp_path: Path) -> None:
    build()
    with pytest.raises(CheckpointError, match="--replace"):
        build(also=["violet"])
    assert build(also=["violet"], replace_other=True).new == 17
    assert opened(tmp_path).card.category_names[-1] == "violet"
    with pytest.raises(CheckpointError, match="encodes images differently"):
        build(encoder=ToyEncoder(seed=1))


def test_another_folder_is_refused_and_a_moved_one_is_not(
    build: Callable[..., Built], finished_run: Path, photos: Path, tmp_path: Path
) -> None:
    build()
    given = (finished_run, photos / "more", tmp_path / "index")
    with pytest.raises(CheckpointError, match="has 0 of its 17 images"):
        build_index(*given, encoder=ToyEncoder())
    assert len(opened(tmp_path)) == 17 and opened(tmp_path).root == photos
    moved = photos.rename(tmp_path / "moved")
    (moved / "000.png").unlink()
    built = build_index(finished_run, moved, tmp_path / "index", encoder=ToyEncoder())
    assert (built.images, built.new, built.removed) == (16, 0, 1)
    given = (finished_run, moved / "more", tmp_path / "index")
    assert build_index(*given, encoder=ToyEncoder(), replace_other=True).images == 1
    assert opened(tmp_path).root == moved / "more"


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no index"):
        Index(tmp_path)
    connect(tmp_path).create_table("images", [{"a": 1}])
    with pytest.raises(CheckpointError, match="no index of trmml"):
        Index(tmp_path)


# Searching ----------------------------------------------------------------------------------


def test_scores_are_weighted_cosines_less_their_mean(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    build()
    found = opened(tmp_path).search(parse_query(["2:red"], unlike=["005.png"]), top=50)
    paths = [photos / hit.image for hit in found.hits]
    every = sorted(photos.rglob("*.png"))
    encoder = ToyEncoder()
    (text,) = encode_templates(encoder, ["a photo of a {}"], ["red"])
    features = encode_images(every, encoder).source.batch(torch.arange(len(every))).image_feature
    vector = 2 * text[0] - features[every.index(photos / "005.png")]
    scores = features @ vector - features.mean(dim=0) @ vector
    expected = [float(scores[every.index(path)]) for path in paths]
    assert np.allclose([hit.score for hit in found.hits], expected, atol=5e-3)
    assert len(paths) == 17 and expected == pytest.approx(sorted(expected, reverse=True), abs=5e-3)


def test_known_labels_count_before_the_tagger(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    build()
    index = opened(tmp_path)
    before = set(names(index.search(parse_query(tags=["red"]), top=50)))
    assert 0 < len(before) < 17
    wrong = [sorted(before)[0], next(p.name for p in photos.glob("*.png") if p.name not in before)]
    table = tmp_path / "labels.csv"
    table.write_text(f"image,red,violet\n{wrong[0]},0,\n{wrong[1]},1,1\n")
    build(labels=read_folder(photos, table))
    index = opened(tmp_path)
    after = set(names(index.search(parse_query(tags=["red"]), top=50)))
    assert after == before - {wrong[0]} | {wrong[1]}
    without = set(names(index.search(parse_query(without=["red"]), top=50)))
    assert (
        without == {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")} - after
    )
    assert names(index.search(parse_query(tags=["violet"]))) == [wrong[1]]  # of the labels alone
    high = set(names(index.search(parse_query(tags=["red:0.999999"]), top=50)))
    assert high <= after and wrong[1] in high and wrong[0] not in high
    everything = set(names(index.search(parse_query(tags=["red:0"]), top=50)))
    assert len(everything) == 16 and wrong[0] not in everything


def test_names_are_compared_as_tables_compare_them(
    finished_run: Path, photos: Path, tmp_path: Path
) -> None:
    build_index(
        finished_run,
        photos,
        tmp_path / "index",
        encoder=ToyEncoder(),
        also=["caf\u00e9", "scale 1:1"],
    )
    index = opened(tmp_path)
    for tag in ("cafe\u0301:0", " caf\u00e9 :0", "scale 1:1:0"):
        assert len(index.search(parse_query(tags=[tag]), top=50).hits) == 17
    place = index.card.category_names.index("scale 1:1")
    least = index.card.thresholds[place]
    whole = names(index.search(parse_query(tags=["scale 1:1"]), top=50))
    assert whole == names(index.search(parse_query(tags=[f"scale 1:1:{least:.6f}"]), top=50))


def test_an_image_of_the_index_by_its_path_is_not_its_own_hit(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    build()
    index = Index(tmp_path / "index")  # and no encoder is needed
    by_path = index.search(parse_query(like=[str(photos / "more" / ".." / "000.png")]), top=50)
    assert names(by_path) == names(index.search(parse_query(like=["000.png"]), top=50))


def test_a_linked_image_is_not_its_own_hit(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    elsewhere = (photos / "000.png").rename(tmp_path / "elsewhere.png")
    (photos / "000.png").symlink_to(elsewhere)
    build()
    index = Index(tmp_path / "index")
    found = names(index.search(parse_query(like=[str(photos / "000.png")]), top=50))
    assert len(found) == 16 and "000.png" not in found


def test_an_image_whose_name_looks_like_a_weight_counts_whole(
    build: Callable[..., Built], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "16:9").mkdir()
    shutil.copy2(photos / "000.png", photos / "16:9" / "a.png")
    build()
    index = Index(tmp_path / "index")
    for like in ("16:9/a.png", "2:16:9/a.png"):
        assert "16:9/a.png" not in names(index.search(parse_query(like=[like]), top=50))
    monkeypatch.chdir(photos)
    assert "16:9/a.png" not in names(index.search(parse_query(like=["16:9/a.png"]), top=50))
    once, twice = (index.search(parse_query(like=[n])).hits[0] for n in ("001.png", "2:001.png"))
    assert twice.score == pytest.approx(2 * once.score)


def test_a_label_that_looks_like_a_cut_counts_whole(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,scale 1:1,red\n000.png,1,\n001.png,0,1\n")
    build(labels=read_folder(photos, table))
    index = opened(tmp_path)
    assert index.labelled == ["scale 1:1"]
    assert names(index.search(parse_query(tags=["scale 1:1"]))) == ["000.png"]


def test_replacing_an_index_keeps_its_labels(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,red\n000.png,1\n")
    build(labels=read_folder(photos, table))
    build(also=["violet"], replace_other=True)
    rows, _ = open_images(tmp_path / "index")
    given = {row["image"]: row["given"] for row in rows.search().limit(None).to_list()}
    assert given["000.png"] == ["red"] and not given["001.png"]


def test_a_killed_build_loses_no_label_and_settles_later(
    build: Callable[..., Built], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trmml.search import build as module

    table = tmp_path / "labels.csv"
    table.write_text("image,red\n000.png,1\nmore/it's.png,0\n")
    build(labels=read_folder(photos, table))

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("_write", "_settle"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, step, dies)
            build(also=["violet"], replace_other=True)
    old = opened(tmp_path).reference.mean
    assert build(also=["violet"]).new == 0  # all rows were there
    rows, _ = open_images(tmp_path / "index")
    labels = {row["image"]: (row["given"], row["absent"]) for row in rows.search().to_list()}
    assert labels["000.png"] == (["red"], []) and labels["more/it's.png"] == ([], ["red"])
    (photos / "001.png").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_settle", dies)
        build(also=["violet"])
    build(also=["violet"])
    assert not np.array_equal(opened(tmp_path).reference.mean, old)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "images.lance",
        "reference.lance",
    ]


def test_labels_in_another_case_are_of_the_runs_category(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,Red,Boat\n000.png,1,1\n")
    build(labels=read_folder(photos, table))
    index = opened(tmp_path)
    assert index.labelled == ["Boat"]
    (hit,) = index.search(parse_query(like=["000.png"], tags=["Boat"])).hits or (None,)
    assert hit is None  # an image is not its own hit
    (hit,) = index.search(parse_query(tags=["red", "Boat"])).hits
    assert hit.image == "000.png" and set(hit.given) == {"red", "Boat"}


def test_an_image_outside_is_not_taken_for_one_of_its_name(
    build: Callable[..., Built], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    (tmp_path / "new").mkdir()
    Image.new("RGB", (48, 48), (1, 250, 250)).save(tmp_path / "new" / "000.png")
    monkeypatch.chdir(tmp_path / "new")
    index = opened(tmp_path)
    outside = index.search(parse_query(like=["000.png"]), top=50).hits
    assert "000.png" in names(Found(outside)) and len(outside) == 17
    inside = str(photos / "000.png")
    of_box, whole = (
        index.search(parse_query(like=[inside], box=box), top=50).hits for box in ("0,0,1,1", None)
    )
    found = index.search(parse_query(like=["000.png"], box="0,0,1,1"), top=50).hits
    assert [hit.score for hit in found] != [hit.score for hit in of_box] and len(whole) == 16


def test_a_name_that_is_no_text_is_left_out_by_name(
    build: Callable[..., Built], photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = os.fsencode(photos) + b"/caf\xe9.png"
    try:
        shutil.copy(os.fsencode(photos / "000.png"), odd)
    except OSError:
        pytest.skip("file names are text here")
    assert build().images == 17
    assert "1 images are left out" in caplog.text and "udce9" in caplog.text


def test_tags_alone_are_sorted_by_their_least_probability(
    build: Callable[..., Built], tmp_path: Path
) -> None:
    build()
    hits = opened(tmp_path).search(parse_query(tags=["red:0", "blue:0"]), top=50).hits
    scores = [hit.score for hit in hits]
    assert len(hits) == 17 and scores == sorted(scores, reverse=True)


def test_images_of_the_index_need_no_encoder(build: Callable[..., Built], tmp_path: Path) -> None:
    build()
    index = Index(tmp_path / "index")
    found = index.search(parse_query(like=["more/it's.png"], tags=["red:0"]), top=3)
    assert len(found.hits) == 3 and "more/it's.png" not in names(found)
    assert index.search(parse_query(like=["000.png"]), least="auto").cut is not None
    with pytest.raises(DataError, match="needs the encoder"):
        index.search(parse_query(["red"]))


def test_a_file_outside_and_a_missing_one(
    build: Callable[..., Built], photos: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    build()
    index = opened(tmp_path)
    twin = toy_images.train / "000.png"
    assert names(index.search(parse_query(like=[str(twin)]), top=1)) == ["more/it's.png"]
    with pytest.raises(DataError, match="neither a file nor an image of the index"):
        index.search(parse_query(like=["nowhere.png"]))
    (photos / "more" / "it's.png").unlink()
    (hit,) = index.search(parse_query(like=[str(twin)]), top=1).hits
    assert hit.missing and hit.to_dict()["missing"]


def test_moved_images_are_found_under_another_root(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    build()
    photos.rename(tmp_path / "elsewhere")
    assert all(hit.missing for hit in opened(tmp_path).search(parse_query(["red"])).hits)
    index = opened(tmp_path, root=tmp_path / "elsewhere")
    assert not any(hit.missing for hit in index.search(parse_query(["red"])).hits)


def test_a_box_is_read_from_the_patches_under_it(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    assert patches_under((0.0, 0.0, 1.0, 1 / 3), (3, 3)).tolist() == pytest.approx(
        [1 / 3] * 3 + [0] * 6
    )
    assert patches_under((0.5, 0.5, 0.6, 0.6), (3, 3)).argmax() == 4
    image = Image.new("RGB", (48, 48), (220, 40, 40))
    image.save(photos / "red.png")
    half = Image.new("RGB", (48, 48), (40, 70, 220))
    half.paste((220, 40, 40), (0, 0, 16, 48))
    half.save(tmp_path / "half.png")
    build()
    index = opened(tmp_path)
    left = index.search(parse_query(like=[str(tmp_path / "half.png")], box="0,0,0.3,1"), top=1)
    assert names(left) == ["red.png"] and left.hits[0].score > 0


def test_parts_rank_by_the_best_patch(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    small = Image.new("RGB", (48, 48), (128, 128, 128))
    small.paste((1, 250, 250), (0, 0, 16, 16))
    small.save(photos / "small.png")
    Image.new("RGB", (48, 48), (1, 250, 250)).save(tmp_path / "cyan.png")
    build()
    query = parse_query(like=[str(tmp_path / "cyan.png")])
    assert names(opened(tmp_path).search(query, top=1, parts=True)) == ["small.png"]
    (photos / "000.png").unlink()
    hits = opened(tmp_path).search(query, top=50, parts=True).hits
    assert len(hits) == 17 and all(np.isfinite(hit.score) for hit in hits)
    with pytest.raises(DataError, match="does not hold with --part"):
        opened(tmp_path).search(query, parts=True, least="auto")


# Cut-off ------------------------------------------------------------------------------------


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_cut_is_what_unrelated_queries_hardly_reach() -> None:
    draw = np.random.default_rng(0)
    images = unit(draw.normal(size=(300, 16)) + 1)
    texts = unit(draw.normal(size=(200, 16)))
    words = [f"word{n}" for n in range(200)]
    found = Reference(images.mean(axis=0), images, texts, words)
    cut = found.cut(parse_query(["something"]))
    scores = texts @ (images - images.mean(axis=0)).T
    assert (scores > cut).mean() == pytest.approx(0.001, abs=2e-4)
    assert found.cut(parse_query(["2:something"])) == pytest.approx(2 * cut, rel=1e-5)
    # An image is not set against itself, a text not against its own words.
    assert found.cut(parse_query(like=["a.jpg"])) < 1 - float(images.mean(axis=0) @ images[0])
    texts[7] = images[0]
    assert found.cut(parse_query(["the word7"])) <= cut + 1e-6


def test_too_few_images_have_no_cut(build: Callable[..., Built], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for images in (0, 1, 2):
        rows = unit(draw.normal(size=(images, 16)))
        found = Reference(np.zeros(16, np.float32), rows, unit(draw.normal(size=(200, 16))))
        assert (found.cut(parse_query(like=["a.jpg"])) is None) == (images < 2)
    many = parse_query(like=[f"{n}.jpg" for n in range(20)])
    assert found.cut(many) is None  # each of the two is left out for one of them
    build(only=["000.png"])
    index = opened(tmp_path)
    assert index.search(parse_query(like=["000.png"]), least="auto") == Found([], None)
    for least in (float("nan"), float("-inf")):
        with pytest.raises(DataError, match="a number or auto"):
            index.search(parse_query(["red"]), least=least)


def test_the_texts_are_encoded_once_and_kept(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(set(reference_module.NOUNS)) == reference_module.UNRELATED
    build()
    cut = opened(tmp_path).search(parse_query(["red"]), least="auto").cut
    monkeypatch.setattr("trmml.search.index.with_texts", None)
    assert opened(tmp_path).search(parse_query(["red"]), least="auto").cut == cut
    (tmp_path / "photos" / "000.png").unlink()
    build()  # keeps the texts
    opened(tmp_path).search(parse_query(["red"]), least="auto")


def test_a_search_adds_its_texts_to_what_a_build_wrote_since(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    build()
    searched = opened(tmp_path)
    searched.search(parse_query(["red"]))  # so that it has read the reference
    Image.new("RGB", (48, 48), (1, 250, 250)).save(photos / "new.png")
    build()
    table, card = open_images(tmp_path / "index")
    built = reference_module.read_reference(tmp_path / "index", card)
    searched.search(parse_query(["red"]), least="auto")
    now = reference_module.read_reference(tmp_path / "index", card)
    assert np.array_equal(now.mean, built.mean) and len(now.images) == table.count_rows()
    assert list(now.words) == list(reference_module.NOUNS)
    other = replace(card, template="{}")
    assert not len(reference_module.read_reference(tmp_path / "index", other).texts)
    reference_module.keep_texts(tmp_path / "index", replace(now, texts=now.texts[:0]), other)
    assert len(reference_module.read_reference(tmp_path / "index", card).texts) == len(now.texts)


def test_texts_need_the_text_tower_of_the_index(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    build()
    card = open_images(tmp_path / "index")[1]
    other = replace(card, encoder=card.encoder | {"checksum": "another"})
    embedder = EncoderEmbedder(other, encoder=ToyEncoder())
    assert len(embedder.images([photos / "000.png"], None))
    with pytest.raises(CheckpointError, match="another text tower"):
        embedder.texts(["red"])


def test_a_least_score_cuts(build: Callable[..., Built], tmp_path: Path) -> None:
    build()
    index = opened(tmp_path)
    hits = index.search(parse_query(["red"]), top=50).hits
    least = hits[4].score
    assert len(index.search(parse_query(["red"]), top=50, least=least).hits) == 5
    with pytest.raises(DataError, match="needs a text or an image"):
        index.search(parse_query(tags=["red"]), least=0.5)


# In memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        parse_query(["red"]),
        parse_query(["200:red", "0.01:blue"], unlike=["005.png"]),
        parse_query(like=["more/it's.png"]),
        parse_query(like=["001.png", "002.png"], tags=["red:0.3"]),
        parse_query(["red"], without=["red:0"]),
    ],
)
def test_in_memory_the_same_is_found(
    build: Callable[..., Built], photos: Path, tmp_path: Path, query: Query
) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    build()
    for top in (1, 5, 50):
        by_lance, held = (
            opened(tmp_path, in_memory=how).search(query, top=top) for how in (False, True)
        )
        scores = [[hit.score for hit in found.hits] for found in (by_lance, held)]
        assert len(scores[0]) == len(scores[1])
        assert np.allclose(*scores, atol=0.002 * sum(abs(term.weight) for term in query.terms))
        assert "broken.png" not in names(held)
        if top == 50:
            assert set(names(held)) == set(names(by_lance))


def test_what_memory_does_not_hold_stays_on_disk(
    build: Callable[..., Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    monkeypatch.setattr(index_module, "free_memory", lambda: 17.0)
    index = opened(tmp_path, in_memory=True)
    assert len(index.search(parse_query(["red"])).hits) == 17
    assert index._features is None


def test_half_precision_loses_none_of_the_best(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    centre = unit(draw.normal(size=(1, 512)))
    rows = unit(centre + 0.002 * draw.normal(size=(3000, 512))).astype(np.float16)  # near ties
    features = FeaturesInMemory(made_table(tmp_path, rows))
    for query in unit(draw.normal(size=(5, 512)) + 2 * centre) * 30:
        ids, products = features.nearest(query, 40, READABLE)
        exact = rows.astype(np.float64) @ query
        assert exact[ids] == pytest.approx(products, rel=1e-4)
        assert exact[ids].min() > np.sort(exact)[-40] - 1e-4
        few, _ = features.nearest(query, 40, "image IN ('5', '7')")
        assert sorted(few.tolist()) == [5, 7]
        none, _ = features.nearest(query, 40, "image = 'nowhere'")
        assert not len(none)


# The approximate search ---------------------------------------------------------------------


def test_the_approximate_search_finds_what_the_exact_one_does(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    centres = unit(draw.normal(size=(20, 16)))
    rows = unit(centres[draw.integers(0, 20, 2000)] + 0.3 * draw.normal(size=(2000, 16)))
    table = made_table(tmp_path, rows)
    assert index_vectors(table, rows[:20]) > 0.9
    assert recall(table, rows[:5], "image = '3'") == 1.0
    exact = nearest(table, rows[3], 1).select(["image"]).to_arrow()["image"].to_pylist()
    assert exact == ["3"]


def test_few_images_are_searched_exactly(build: Callable[..., Built], tmp_path: Path) -> None:
    rows = unit(np.random.default_rng(0).normal(size=(FEWEST, 16)))
    table = made_table(tmp_path / "made", rows)
    assert index_vectors(table, rows[:2]) is not None and has_vector_index(table)
    assert not drop_if_few(table) and has_vector_index(table)
    table.delete("image = '3'")
    assert index_vectors(table, rows[:2]) is None and not has_vector_index(table)
    assert build(approximate=True).recall is None
    assert len(opened(tmp_path).search(parse_query(["red"]), top=50).hits) == 17


# The sheet ----------------------------------------------------------------------------------


def test_the_sheet_holds_its_images_and_escapes_names(
    build: Callable[..., Built], photos: Path, tmp_path: Path
) -> None:
    shutil.copy2(photos / "000.png", photos / "<b>&.png")
    build()
    hits = opened(tmp_path).search(parse_query(["red"]), top=50).hits
    (photos / "001.png").unlink()
    (photos / "002.png").write_bytes(b"no image")
    hits = opened(tmp_path).search(parse_query(["red"]), top=50).hits
    write_sheet(tmp_path / "sheet.html", "<red>", hits)
    page = (tmp_path / "sheet.html").read_text("utf-8")
    assert "<b>" not in page and "&lt;b&gt;&amp;.png" in page and "&lt;red&gt;" in page
    assert page.count("data:image/jpeg;base64,") == len(hits) - 2
    assert "the file is gone" in page and "the file cannot be read" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_new_table_is_no_warning(tmp_path: Path) -> None:
    made = "connect(sys.argv[1]).create_table('x', pa.table({'a': [1]}), mode='overwrite')"
    code = f"import sys; import pyarrow as pa; from trmml.search.table import connect; {made}"
    environment = {name: value for name, value in os.environ.items() if name != "LANCEDB_LOG"}
    command = [sys.executable, "-c", code, str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
