"""Jobs over a manifest: rows as `tag` has them, bad images, resuming, kills, failing storage."""

import errno
import itertools
import json
import multiprocessing
import os
import shutil
import struct
import threading
import time
import zlib
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.conftest import ToyImages
from tests.toy import COLOURS, write_images
from trmml.errors import CheckpointError, ConfigError, DataError
from trmml.scale import part as part_module
from trmml.scale import run as run_module
from trmml.scale.job import part_card, read_job
from trmml.scale.lance_table import read_rows
from trmml.scale.manifest import write_manifest
from trmml.scale.objects import Storage, UnreachableError
from trmml.scale.run import tag_manifest
from trmml.scale.status import Status, status
from trmml.tagging.tagger import Tagger
from trmml.training.run_folder import summed


@pytest.fixture
def manifest(toy_images: ToyImages, tmp_path: Path) -> Path:
    """The test images, and three that are none."""
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "empty.jpg").write_bytes(b"")
    (bad / "text.jpg").write_bytes(b"no image")
    (bad / "missing.jpg").write_bytes(b"going")
    write_manifest([str(toy_images.test), str(bad)], tmp_path / "manifest.parquet")
    (bad / "missing.jpg").unlink()
    return tmp_path / "manifest.parquet"


def job(run: Path, manifest: Path, out: Path, **options: object) -> Status:
    options = {"part": 5, "batch": 4, "device": "cpu", "trust": True, **options}
    return tag_manifest(run, manifest, out, **options)  # type: ignore[arg-type]


def rows_of(out: Path) -> pl.DataFrame:
    if (out / "images.lance").exists():
        return read_rows(out, list(read_job(out).schema)).sort("id")
    return pl.concat([pl.read_parquet(path) for path in out.glob("part-*.parquet")]).sort("id")


def test_rows_are_what_tag_says(
    finished_run: Path, manifest: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    done = job(finished_run, manifest, tmp_path / "out", what=["probabilities", "tags"])
    assert (done.rows, done.done, done.errors, done.parts, done.parts_done) == (19, 19, 3, 4, 4)
    frame = rows_of(tmp_path / "out")
    good = frame.filter(pl.col("error").is_null())
    tagged = Tagger.load(finished_run, trust=True).tag(sorted(toy_images.test.iterdir()))
    assert len(good) == 16
    for row, image in zip(good.iter_rows(named=True), tagged, strict=True):
        assert row["uri"] == str(image.path)
        assert row["present"] == [tag.category for tag in image.tags]
        at = dict(zip(COLOURS, row["probability"], strict=True))
        for tag in image.tags:
            assert at[tag.category] == pytest.approx(tag.probability, abs=1e-3)
        assert (row["width"], row["height"]) == (48, 48) and len(row["sha256"]) == 64


def test_a_bad_image_is_a_row_with_its_error(
    finished_run: Path, manifest: Path, tmp_path: Path
) -> None:
    job(finished_run, manifest, tmp_path / "out")
    bad = rows_of(tmp_path / "out").filter(pl.col("error").is_not_null())
    assert bad["id"].to_list() == ["empty.jpg", "missing.jpg", "text.jpg"]
    assert "is empty" in bad["error"][0] and "empty.jpg" in bad["error"][0]
    assert "cannot be read" in bad["error"][1] and "no image" in bad["error"][2]
    assert bad["probability"].null_count() == bad["present"].null_count() == 3
    assert bad["sha256"].null_count() == 1  # what was read is named


def test_every_output(finished_run: Path, manifest: Path, tmp_path: Path) -> None:
    job(finished_run, manifest, tmp_path / "out", what=["features", "maps", "tags"])
    frame = rows_of(tmp_path / "out")
    assert "probability" not in frame.columns
    good = frame.filter(pl.col("error").is_null())
    features = good["image_feature"].to_numpy().astype(np.float32)
    assert features.shape == (16, 8)
    assert np.abs(np.linalg.norm(features, axis=1) - 1).max() < 1e-2
    for row in good.iter_rows(named=True):
        assert len(row["maps"]) == len(row["present"])
        assert all(len(cells) == 9 and max(cells) == 255 for cells in row["maps"])
    cards = [part_card(path) for path in (tmp_path / "out").glob("part-*.parquet")]
    assert all(card and card["category_names"] == list(COLOURS) for card in cards)


def test_what_is_done_is_not_done_again(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read = tmp_path / "out", []
    job(finished_run, manifest, out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    whole, lost = rows_of(out), min(times)
    lost.unlink()
    damaged = max(times)
    damaged.write_bytes(damaged.read_bytes()[:100])  # as a disk may leave it
    original = Storage.read
    monkeypatch.setattr(
        Storage, "read", lambda self, uri, size: (read.append(uri), original(self, uri, size))[1]
    )
    assert status(out).parts_done == 2
    job(finished_run, manifest, out)
    assert rows_of(out).equals(whole)
    # The first one is read before all, to see that the storage is there.
    assert len(read) == 1 + len(pl.read_parquet(lost)) + len(pl.read_parquet(damaged))
    kept = {path: path.stat().st_mtime_ns for path in times if path not in (lost, damaged)}
    assert all(times[path] == now for path, now in kept.items())
    read.clear()
    job(finished_run, manifest, out)
    assert read == []


def test_another_job_in_the_folder_is_refused(
    finished_run: Path, manifest: Path, tmp_path: Path, toy_images: ToyImages
) -> None:
    out = tmp_path / "out"
    job(finished_run, manifest, out)
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(CheckpointError, match="holds another job: what differ"):
        job(finished_run, manifest, out, what=["tags"])
    write_manifest([str(toy_images.test)], tmp_path / "other.parquet")
    with pytest.raises(CheckpointError, match="rows, manifest differ"):
        job(finished_run, tmp_path / "other.parquet", out)
    assert sorted(path.name for path in out.iterdir()) == before
    (out / "job.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        job(finished_run, manifest, out)


def test_options_out_of_range(finished_run: Path, manifest: Path, tmp_path: Path) -> None:
    for options, words in (
        ({"what": ["tags", "boxes"]}, "got boxes"),
        ({"what": []}, "got nothing"),
        ({"batch": 0}, "from 1"),
        ({"precision": "auto"}, "other than auto"),
    ):
        with pytest.raises(ConfigError, match=words):
            job(finished_run, manifest, tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="holds no job"):
        status(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_storage_that_does_not_answer_fails_a_part_and_not_the_job(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, down, asked = Storage.read, [True], []

    def read(self: Storage, uri: str, size: int | None) -> bytes:
        if uri.endswith("007.png"):
            asked.append(uri)
            if down[0]:
                raise UnreachableError(f"{uri} did not come")
        return original(self, uri, size)

    monkeypatch.setattr(Storage, "read", read)
    done = job(finished_run, manifest, tmp_path / "out")
    assert (done.done, done.failed, len(asked)) == (14, 1, 2)
    (line,) = (tmp_path / "out" / "failed.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["rows"] == 5 and "did not come" in json.loads(line)["error"]
    down[0] = False
    done = job(finished_run, manifest, tmp_path / "out")
    assert (done.done, done.failed) == (19, 0)


def test_the_first_object_is_asked_for_before_any_work(finished_run: Path, tmp_path: Path) -> None:
    rows = {"id": ["a"], "uri": ["s3://museum/a.jpg"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "m.parquet")
    storage = Storage({"endpoint_url": "http://127.0.0.1:9"}, attempts=1)
    with pytest.raises(UnreachableError, match="check the storage"):
        job(finished_run, tmp_path / "m.parquet", tmp_path / "out", storage=storage)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_not_mounted_begins_nothing(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    shutil.copytree(toy_images.test, disk)
    write_manifest([str(disk)], tmp_path / "m.parquet")
    disk.rename(away)
    disk.mkdir()  # its place is there, and empty
    with pytest.raises(UnreachableError, match="is the disk mounted"):
        job(finished_run, tmp_path / "m.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    disk.rmdir()
    away.rename(disk)
    assert job(finished_run, tmp_path / "m.parquet", tmp_path / "out").errors == 0


def test_a_further_commit_on_the_hub_is_the_same_run(
    finished_run: Path, manifest: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        shutil.copytree(finished_run, run)
        tree = json.loads((run / "model.json").read_text("utf-8"))
        tree["pulled_from"] = {"repository": "anna/toys", "commit": run.name}
        (run / "model.json").write_text(json.dumps(summed(tree)), "utf-8")
    first, second = (job(run, manifest, tmp_path / "out") for run in runs)
    assert first == second
    tree["category_names"] = tree["category_names"][::-1]
    (runs[1] / "model.json").write_text(json.dumps(summed(tree)), "utf-8")
    with pytest.raises(CheckpointError, match="holds another job: run, category_names differ"):
        job(runs[1], manifest, tmp_path / "out")


def test_a_job_says_on_which_kind_of_device(
    finished_run: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job(finished_run, manifest, out)
    tree = json.loads((out / "job.json").read_text("utf-8"))
    assert tree["device"] == "cpu"
    (out / "job.json").write_text(json.dumps({**tree, "device": "cuda"}), "utf-8")
    with pytest.raises(CheckpointError, match="holds another job: device differ"):
        job(finished_run, manifest, out)
    for path in out.glob("part-*"):
        path.unlink()
    del tree["device"]  # as it was begun by an older version
    (out / "job.json").write_text(json.dumps(tree), "utf-8")
    before = json.dumps(tree)
    assert job(finished_run, manifest, out).done == 19
    assert (out / "job.json").read_text("utf-8") == before


def test_images_that_are_read_ahead_are_bounded_whatever_the_batch(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, most = [0], [0]
    lock, read, prepared = threading.Lock(), Storage.read, part_module._prepared

    def counted(by: int) -> None:
        with lock:
            held[0] += by
            most[0] = max(most[0], held[0])

    def count_read(self: Storage, uri: str, size: int | None) -> bytes:
        counted(1)
        return read(self, uri, size)

    def count_prepared(*given: object) -> object:
        counted(-1)
        return prepared(*given)  # type: ignore[arg-type]

    write_manifest([str(toy_images.test)], tmp_path / "m.parquet")
    monkeypatch.setattr(run_module, "_probe", lambda *_: None)
    monkeypatch.setattr(part_module, "IN_FLIGHT", 3)
    monkeypatch.setattr(Storage, "read", count_read)
    monkeypatch.setattr(part_module, "_prepared", count_prepared)
    done = job(finished_run, tmp_path / "m.parquet", tmp_path / "out", batch=16, part=16)
    assert done.done == 16 and held == [0] and most[0] <= 6


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_an_error_of_the_disk_fails_a_part_and_not_the_job(
    finished_run: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def broken(*_: object) -> None:
        raise OSError(number, os.strerror(number), "part")

    monkeypatch.setattr(part_module, "write_bytes", broken)
    done = job(finished_run, manifest, tmp_path / "out")
    assert (done.done, done.failed) == (0, 4)


def test_images_of_a_part_that_is_done_again_are_counted_once(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, told = part_module.write_bytes, list[tuple[int, int]]()

    def fails_once(path: Path, content: bytes) -> None:
        monkeypatch.setattr(part_module, "write_bytes", original)
        raise OSError(errno.EIO, "no answer")

    monkeypatch.setattr(part_module, "write_bytes", fails_once)

    def progress(what: str, done: int, total: int) -> None:
        told.append((done, total))

    done = job(finished_run, manifest, tmp_path / "out", progress=progress)
    assert done.failed == 0 and told[-1] == (19, 19) and max(told) == (19, 19)


def test_a_full_disk_ends_the_job(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    job(finished_run, manifest, tmp_path / "whole")
    least = min(path.stat().st_size for path in (tmp_path / "whole").glob("part-*"))
    frames: list[object] = []
    original = part_module._frame
    monkeypatch.setattr(
        part_module, "_frame", lambda *given: (frames.append(given), original(*given))[1]
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (least - 1, limits[1]))
    try:
        with pytest.raises(OSError, match="bytes are needed"):
            job(finished_run, manifest, tmp_path / "out", batch=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(frames) == 1  # the others are not computed for nothing
    assert not list((tmp_path / "out").glob("*part*"))


def test_odd_images_are_rows(finished_run: Path, toy_images: ToyImages, tmp_path: Path) -> None:
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 20000, 20000) + b"\x08\2\0\0\0"
    crc = struct.pack(">I", zlib.crc32(head[12:]))
    (tmp_path / "bomb.png").write_bytes(head + crc)
    good = str(min(toy_images.test.iterdir()))
    uris = [good, str(tmp_path / "bomb.png"), "htps://x/a.png"]
    frame = pl.DataFrame({"id": uris, "uri": uris})
    frame.write_parquet(tmp_path / "m.parquet")
    done = job(finished_run, tmp_path / "m.parquet", tmp_path / "out")
    assert (done.done, done.errors, done.failed) == (3, 2, 0)


@pytest.mark.parametrize("files", ["parquet", "lance"])
def test_errors_are_tried_again_where_that_is_asked_for(
    finished_run: Path, toy_images: ToyImages, tmp_path: Path, files: str
) -> None:
    if files == "lance":
        pytest.importorskip("lance", reason="the extra `lance` is not installed")
    late, out = tmp_path / "late.png", tmp_path / "out"
    paths = [*sorted(toy_images.test.iterdir())[:6], late]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    write_manifest([str(tmp_path / "list.txt")], tmp_path / "m.parquet")
    assert job(finished_run, tmp_path / "m.parquet", out, files=files).errors == 1
    Image.new("RGB", (48, 48)).save(late)
    assert job(finished_run, tmp_path / "m.parquet", out, files=files).errors == 1
    kept = max(out.glob("part-*"), key=lambda path: (part_card(path) or {})["images"])
    before = kept.stat().st_mtime_ns
    done = job(finished_run, tmp_path / "m.parquet", out, files=files, retry_errors=True)
    assert (done.done, done.errors) == (7, 0) and kept.stat().st_mtime_ns == before
    assert rows_of(out)["error"].null_count() == 7


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no process there is made ready beforehand")
@pytest.mark.parametrize("files", ["parquet", "lance"])
def test_ten_kills_leave_the_same_rows(finished_run: Path, tmp_path: Path, files: str) -> None:
    if files == "lance":
        pytest.importorskip("lance", reason="the extra `lance` is not installed")
    write_images(tmp_path / "set", 66)
    write_manifest([str(tmp_path / "set")], tmp_path / "m.parquet")
    job(finished_run, tmp_path / "m.parquet", tmp_path / "whole", part=3)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trmml.scale.run", "trmml.tagging.tagger"])
    rng, kills = np.random.default_rng(0), 0
    words = (finished_run, tmp_path / "m.parquet", tmp_path / "out")
    while kills < 10:
        process = context.Process(
            target=_two_parts_of_a_job, args=words, kwargs={"part": 3, "files": files}
        )
        before = _parts(tmp_path / "out")
        process.start()
        _wait_for_more(tmp_path / "out", before, process)
        time.sleep(rng.uniform(0, 0.03))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    job(finished_run, tmp_path / "m.parquet", tmp_path / "out", part=3, files=files)
    assert kills == 10
    assert rows_of(tmp_path / "out").equals(rows_of(tmp_path / "whole"))
    assert not list((tmp_path / "out").glob(".*.part"))


def _two_parts_of_a_job(*words: Path, **options: object) -> None:
    """Of 22 parts, so that the tenth kill never comes late, however fast the machine is."""
    frame, calls = part_module._frame, itertools.count()

    def waiting(*given: object) -> pl.DataFrame:
        if next(calls) == 2:
            time.sleep(600)
        return frame(*given)  # type: ignore[arg-type]

    part_module._frame = waiting
    job(*words, **options)


def _parts(out: Path) -> int:
    return len(list(out.glob("part-*")))


def _wait_for_more(out: Path, before: int, process: BaseProcess) -> None:
    """Until a part is written that was not there."""
    while _parts(out) == before and process.exitcode is None:
        time.sleep(0.002)


def test_rows_out_are_rows_in(
    finished_run: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = part_module._frame
    monkeypatch.setattr(part_module, "_frame", lambda *given: original(*given)[:-1])
    done = job(finished_run, manifest, tmp_path / "out")
    assert done.done == 0 and done.failed == 4


def test_nothing_but_the_folder_is_written(
    finished_run: Path, manifest: Path, tmp_path: Path, toy_images: ToyImages
) -> None:
    folders = (toy_images.test, finished_run)
    before = [(p, p.stat().st_mtime_ns) for folder in folders for p in sorted(folder.rglob("*"))]
    job(finished_run, manifest, tmp_path / "out", what=["maps"])
    after = [(p, p.stat().st_mtime_ns) for folder in folders for p in sorted(folder.rglob("*"))]
    assert after == before


def test_a_missing_manifest(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no manifest"):
        job(finished_run, tmp_path / "none.parquet", tmp_path / "out")
    assert run_module.ATTEMPTS == 2


def test_an_output_in_a_bucket_is_refused(finished_run: Path, manifest: Path) -> None:
    with pytest.raises(ConfigError, match="mount the bucket"):
        job(finished_run, manifest, Path("s3://museum/tagged"))
