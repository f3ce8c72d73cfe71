"""A job whose rows are one Lance table: the rows of Parquet, whatever stops it in between."""

import sys
from pathlib import Path

import polars as pl
import pytest

from tests.scale.test_run import job, manifest, rows_of
from trmml.errors import MissingExtraError
from trmml.scale import run as run_module
from trmml.scale.job import part_card
from trmml.scale.status import status

lance = pytest.importorskip("lance", reason="the extra `lance` is not installed")

__all__ = ["manifest"]  # a fixture
ALL = ("tags", "probabilities", "features", "maps")


def table_of(out: Path) -> pl.DataFrame:
    frame = pl.from_arrow(lance.dataset(out / "images.lance").to_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def test_the_table_has_the_rows_of_parquet_in_the_manifest_s_order(
    finished_run: Path, manifest: Path, tmp_path: Path
) -> None:
    for files in ("parquet", "lance"):
        done = job(finished_run, manifest, tmp_path / files, files=files, what=ALL)
        assert (done.done, done.errors, done.parts_done, done.failed) == (19, 3, 4, 0)
    table = table_of(tmp_path / "lance")
    assert table["id"].to_list() == pl.read_parquet(manifest)["id"].to_list()
    assert table.sort("id").equals(rows_of(tmp_path / "parquet"))
    metadata = lance.dataset(tmp_path / "lance" / "images.lance").schema.metadata
    assert b'"category_names": ["red"' in metadata[b"trmml"]


def test_lancedb_opens_the_table(finished_run: Path, manifest: Path, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb", reason="the extra `search` is not installed")
    job(finished_run, manifest, tmp_path / "out", files="lance", what=ALL)
    table = lancedb.connect(tmp_path / "out").open_table("images")
    own = table.search().where("id = '003.png'").to_list()[0]
    (best,) = (
        table.search(own["image_feature"], vector_column_name="image_feature").limit(1).to_list()
    )
    assert best["id"] == "003.png"


def test_lost_and_damaged_parts_are_done_again(
    finished_run: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job(finished_run, manifest, out, files="lance")
    whole = table_of(out)
    lost, cut, empty, kept = sorted(out.glob("part-*.json"))
    lost.unlink()
    empty.write_bytes(b"")
    card = part_card(cut)
    assert card is not None
    fragment = out / "images.lance" / "data" / card["fragments"][0]["files"][0]["path"]
    fragment.write_bytes(fragment.read_bytes()[:100])  # as a disk may leave it
    times = kept.stat().st_mtime_ns
    assert status(out).parts_done == 1
    assert job(finished_run, manifest, out, files="lance").parts_done == 4
    assert table_of(out).equals(whole) and kept.stat().st_mtime_ns == times


def test_what_is_written_but_not_joined_is_joined_by_the_next_call(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "join", stop)
        job(finished_run, manifest, out, files="lance")
    assert len(table_of(out)) == 0 and status(out).parts_done == 4
    job(finished_run, manifest, out, files="lance")
    assert len(table_of(out)) == 19
    version = lance.dataset(out / "images.lance").version
    job(finished_run, manifest, out, files="lance")
    assert lance.dataset(out / "images.lance").version == version


def test_without_pylance_nothing_is_begun(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(MissingExtraError, match=r"--format lance needs .*'\.\[lance\]'"):
        job(finished_run, manifest, tmp_path / "out", files="lance")
    assert not (tmp_path / "out").exists()
