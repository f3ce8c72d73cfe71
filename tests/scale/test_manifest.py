"""Manifests: what sources stand for, and manifests that are refused."""

import os
from pathlib import Path

import polars as pl
import pytest

from tests.toy import write_images
from trmml.errors import DataError
from trmml.scale.manifest import SCHEMA, read_manifest, write_manifest


def manifest_of(tmp_path: Path, *sources: object) -> pl.DataFrame:
    out = tmp_path / "manifest.parquet"
    rows = write_manifest([str(source) for source in sources], out)
    frame = read_manifest(out)
    assert len(frame) == rows
    return frame


def test_a_folder_to_the_bottom_with_sizes(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "below", 2)
    (tmp_path / "set" / "a.jpg").write_bytes(b"12345")
    (tmp_path / "set" / "notes.txt").write_text("no image")
    (tmp_path / "set" / ".hidden.jpg").write_bytes(b"1")
    frame = manifest_of(tmp_path, tmp_path / "set")
    assert frame["id"].to_list() == ["a.jpg", "below/000.png", "below/001.png"]
    assert frame["uri"][0] == str(tmp_path / "set" / "a.jpg")
    assert frame["size"][0] == 5
    stat = (tmp_path / "set" / "a.jpg").stat()
    assert frame["etag"][0] == f"{stat.st_mtime_ns:x}"


def test_links_to_folders_are_followed_but_in_no_circle(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 1)
    write_images(tmp_path / "elsewhere", 1, seed=1)
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/round").symlink_to(tmp_path / "set")
    assert manifest_of(tmp_path, tmp_path / "set")["id"].to_list() == ["000.png", "linked/000.png"]


def test_a_list_keeps_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path, 1)
    lines = "000.png\nmissing.png\ns3://bucket/a.jpg\n"
    (tmp_path / "list.txt").write_text(lines)
    frame = manifest_of(tmp_path, "list.txt")
    assert frame["id"].to_list() == lines.split()
    assert frame["uri"].to_list()[1:] == [str(tmp_path / "missing.png"), "s3://bucket/a.jpg"]
    assert frame["size"].to_list()[1:] == [None, None]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())  # as Windows writes it
    assert manifest_of(tmp_path, "list.txt").equals(frame)
    write_manifest(["-"], tmp_path / "n.parquet", names=lines.split())
    assert read_manifest(tmp_path / "n.parquet").equals(frame)


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "one", 1)
    write_images(tmp_path / "two", 1)
    with pytest.raises(DataError, match=r"'000\.png' is given to .*one.* and to .*two"):
        manifest_of(tmp_path, tmp_path / "one", tmp_path / "two")
    assert not (tmp_path / "manifest.parquet").exists()


def test_what_holds_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        manifest_of(tmp_path, tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        manifest_of(tmp_path, tmp_path / "missing.txt")
    with pytest.raises(DataError, match="photoss is not there"):
        manifest_of(tmp_path, tmp_path / "photoss")


def test_a_folder_is_no_place_for_a_manifest(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 1)
    with pytest.raises(DataError, match="is a folder; name a Parquet file"):
        write_manifest([str(tmp_path / "set")], tmp_path)


def test_only_a_manifest_is_replaced(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 1)
    out, table = tmp_path / "m.parquet", tmp_path / "labels.csv"
    for _ in range(2):
        assert write_manifest([str(tmp_path / "set")], out) == 1
    table.write_text("image,dog\na.jpg,1\n")
    with pytest.raises(DataError, match=r"labels\.csv is there already and no manifest"):
        write_manifest([str(tmp_path / "set")], table)
    assert table.read_text() == "image,dog\na.jpg,1\n"


def test_brackets_in_a_name_are_no_pattern(tmp_path: Path) -> None:
    write_images(tmp_path / "set [1]", 2)
    out = tmp_path / "set [1]" / "m [2024]*.parquet"
    for _ in range(2):
        assert write_manifest([str(tmp_path / "set [1]")], out) == 2
    assert read_manifest(out)["id"].to_list() == ["000.png", "001.png"]


def test_a_full_disk_is_told_of(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_images(tmp_path / "set", 3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="bytes are needed"):
            write_manifest([str(tmp_path / "set")], tmp_path / "m.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.skipif(os.name == "nt", reason="names there are Unicode")
def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    open(os.fsencode(tmp_path / "set") + b"/\xff.jpg", "wb").close()
    with pytest.raises(DataError, match="no UTF-8"):
        manifest_of(tmp_path, tmp_path / "set")


def test_manifests_of_others(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pl.DataFrame({"id": ["a"], "uri": ["/a.jpg"], "extra": [1]}).write_parquet(path)
    assert read_manifest(path).schema == pl.Schema(SCHEMA)
    pl.DataFrame({"id": ["a", None], "uri": ["/a", "/b"]}).write_parquet(path)
    with pytest.raises(DataError, match="has no id in each row"):
        read_manifest(path)
    pl.DataFrame({"id": ["a", "a"], "uri": ["/a", "/b"]}).write_parquet(path)
    with pytest.raises(DataError, match="'a' is given to /a and to /b"):
        read_manifest(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="is no manifest that can be read"):
        read_manifest(path)
