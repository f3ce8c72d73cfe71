"""Objects in S3 by moto's server on loopback: listed, read, tried again, never written."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from tests.conftest import ToyImages
from tests.scale.faulty_s3 import FaultyS3, served
from trmml.errors import ConfigError, DataError, MissingExtraError
from trmml.scale import objects
from trmml.scale.manifest import read_manifest, write_manifest
from trmml.scale.objects import Storage, UnreachableError
from trmml.scale.run import tag_manifest

boto3 = pytest.importorskip("boto3", reason="the extra `cloud` is not installed")
pytest.importorskip("s3fs", reason="the extra `cloud` is not installed")
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Storage, FaultyS3]]:
    """A bucket `museum`, and a storage that waits little."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with served() as (address, server):
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="museum")
        for name in ("plain", "error500", "slow", "cut", "gone"):
            client.put_object(Bucket="museum", Key=f"scans/{name}.jpg", Body=CONTENT)
        client.put_object(Bucket="museum", Key="scans/notes.txt", Body=b"no image")
        server.requests.clear()
        options = {"endpoint_url": address}
        yield Storage(options, attempts=3, first_wait=0.01, timeout=20.0), server


def test_a_bucket_is_listed_with_sizes_and_etags(
    s3: tuple[Storage, FaultyS3], tmp_path: Path
) -> None:
    storage, server = s3
    write_manifest(["s3://museum/scans"], tmp_path / "m.parquet", storage=storage)
    frame = read_manifest(tmp_path / "m.parquet")
    names = ["cut.jpg", "error500.jpg", "gone.jpg", "plain.jpg", "slow.jpg"]
    assert frame["id"].to_list() == names
    assert frame["uri"][0] == "s3://museum/scans/cut.jpg"
    assert frame["size"].to_list() == [len(CONTENT)] * 5
    assert all(len(etag) == 32 for etag in frame["etag"])
    with pytest.raises(DataError, match="s3://other/scans cannot be listed"):
        list(storage.find("s3://other/scans"))
    assert {method for method, _ in server.requests} <= {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("name", "attempts"), [("plain", 1), ("error500", 3), ("slow", 1), ("cut", 2)]
)
def test_what_fails_now_and_then_is_read(
    s3: tuple[Storage, FaultyS3], name: str, attempts: int
) -> None:
    storage, server = s3
    assert storage.read(f"s3://museum/scans/{name}.jpg", len(CONTENT)) == CONTENT
    assert server.requests["GET", f"/museum/scans/{name}.jpg"] == attempts
    assert {method for method, _ in server.requests} == {"GET"}


def test_a_body_that_takes_too_long_is_asked_for_again(s3: tuple[Storage, FaultyS3]) -> None:
    storage, server = s3
    server.slow_seconds = 8.0
    hasty = Storage(storage.options, attempts=2, first_wait=0.0, timeout=4.0)
    assert hasty.read("s3://museum/scans/slow.jpg", None) == CONTENT
    assert server.requests["GET", "/museum/scans/slow.jpg"] == 2


def test_what_does_not_come_and_what_is_not_there_differ(s3: tuple[Storage, FaultyS3]) -> None:
    storage, server = s3
    with pytest.raises(UnreachableError, match="was asked for 3 times"):
        storage.read("s3://museum/scans/gone.jpg", None)
    with pytest.raises(DataError, match="cannot be read") as caught:
        storage.read("s3://museum/scans/missing.jpg", None)
    assert not isinstance(caught.value, UnreachableError)
    assert server.requests["GET", "/museum/scans/missing.jpg"] == 1


def test_another_size_than_the_manifest_says(s3: tuple[Storage, FaultyS3], tmp_path: Path) -> None:
    storage, _ = s3
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    for uri in ("s3://museum/scans/plain.jpg", str(tmp_path / "a.jpg")):
        with pytest.raises(DataError, match="has more than 9 bytes, the manifest says 9"):
            storage.read(uri, 9)
        with pytest.raises(DataError, match="has 10240 bytes, the manifest says 10241"):
            storage.read(uri, 10_241)


def test_an_object_that_has_grown_is_not_read_whole_nor_again(
    s3: tuple[Storage, FaultyS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, server = s3
    got: list[int] = []
    tried = Storage._tried
    monkeypatch.setattr(
        Storage, "_tried", lambda *given: (got.append(len(c := tried(*given))), c)[1]
    )
    with pytest.raises(DataError, match="has more than 9 bytes"):
        storage.read("s3://museum/scans/plain.jpg", 9)
    assert server.requests["GET", "/museum/scans/plain.jpg"] == 1 and got == [10]


def test_a_huge_object_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(objects, "MOST_BYTES", 100)
    (tmp_path / "a.jpg").write_bytes(CONTENT)
    with pytest.raises(DataError, match="has 101 bytes, at most 100"):
        Storage().read("s3://museum/never/asked.jpg", 101)
    with pytest.raises(DataError, match="more than 100 bytes"):
        Storage().read(str(tmp_path / "a.jpg"), None)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "other.jpg").touch()
    for path in (tmp_path, tmp_path / "missing.jpg", "bad\0name.jpg"):
        with pytest.raises(DataError, match="cannot be read"):
            Storage().read(str(path), None)


@pytest.mark.parametrize(
    "name", ["secret", "connection_string", "aws_secret_access_key", "Access_Token", "sas_token"]
)
def test_credentials_are_refused_as_options(name: str) -> None:
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY"):
        Storage({name: "x"})


def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("https://anna:hunter2@example.org/a.jpg\n")
    for source in ("ftp://anna:hunter2@example.org/all", str(tmp_path / "list.txt")):
        with pytest.raises(ConfigError, match="holds a password") as caught:
            write_manifest([source], tmp_path / "m.parquet")
        assert "hunter2" not in str(caught.value)


def test_odd_names_of_objects(s3: tuple[Storage, FaultyS3], tmp_path: Path) -> None:
    storage, _ = s3
    client = boto3.client("s3", endpoint_url=storage.options["endpoint_url"])
    names = {f"{key}.jpg" for key in ("a::b", "a#b", "a?b", "a%20b", "a b", "caf\u00e9")}
    for name in names:
        client.put_object(Bucket="museum", Key=f"odd/{name}", Body=name.encode())
    write_manifest(["s3://museum/odd"], tmp_path / "m.parquet", storage=storage)
    rows = read_manifest(tmp_path / "m.parquet")
    assert set(rows["id"]) == names
    for row in rows.iter_rows(named=True):
        assert storage.read(row["uri"], row["size"]) == row["id"].encode()


def test_a_list_of_several_pages_of_which_some_fail(s3: tuple[Storage, FaultyS3]) -> None:
    storage, server = s3
    client = boto3.client("s3", endpoint_url=storage.options["endpoint_url"])
    for number in range(1003):
        client.put_object(Bucket="museum", Key=f"many/{number:04}.jpg", Body=b"x")
    found = storage.find("s3://museum/many")
    first = next(found)  # a page is told of before the next is asked for
    server.failing_lists = 2
    assert [first.id, *(one.id for one in found)] == [f"{n:04}.jpg" for n in range(1003)]
    assert server.failing_lists == 0
    server.failing_lists = 3
    with pytest.raises(DataError, match="s3://museum/many cannot be listed"):
        list(storage.find("s3://museum/many"))
    client.put_object(Bucket="museum", Key="many/1003.jpg", Body=b"x")  # no list is remembered
    assert len(list(storage.find("s3://museum/many/"))) == 1004
    (one,) = storage.find("s3://museum/many/0007.jpg")
    assert (one.id, one.uri, one.size) == ("0007.jpg", "s3://museum/many/0007.jpg", 1)


def test_no_more_is_read_of_an_object_of_unknown_size(
    s3: tuple[Storage, FaultyS3], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, _ = s3
    client = boto3.client("s3", endpoint_url=storage.options["endpoint_url"])
    client.put_object(Bucket="museum", Key="empty.jpg", Body=b"")
    assert storage.read("s3://museum/empty.jpg", None) == b""
    monkeypatch.setattr(objects, "MOST_BYTES", 100)
    got: list[int] = []
    tried = Storage._tried
    monkeypatch.setattr(
        Storage, "_tried", lambda *given: (got.append(len(c := tried(*given))), c)[1]
    )
    with pytest.raises(DataError, match="more than 100 bytes"):
        storage.read("s3://museum/scans/plain.jpg", None)
    assert got == [101] or got == [102]


@pytest.mark.parametrize("code", ["ExpiredToken", "NoSuchBucket", "InvalidAccessKeyId"])
def test_what_ails_all_objects_is_no_row(
    s3: tuple[Storage, FaultyS3], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    storage, server = s3
    server.refuse = code
    with pytest.raises(UnreachableError, match="asked for 1 times"):
        storage.read("s3://museum/scans/plain.jpg", None)
    server.refuse = "AccessDenied"  # may be of this one
    with pytest.raises(DataError, match="cannot be read") as caught:
        storage.read("s3://museum/scans/plain.jpg", None)
    assert not isinstance(caught.value, UnreachableError)


def test_a_file_that_is_gone_from_the_folder_one_is_in_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreachableError):  # a place for a disk is empty
        Storage().read("a.jpg", None)
    (tmp_path / "b.jpg").write_bytes(b"there")
    with pytest.raises(DataError, match=r"a\.jpg") as caught:
        Storage().read("a.jpg", None)
    assert not isinstance(caught.value, UnreachableError)


def of_aiohttp(status: int) -> Exception:
    """What https:// raises."""
    from aiohttp import ClientResponseError

    asked: Any = SimpleNamespace(real_url="https://museum.org/a.jpg")
    return ClientResponseError(asked, (), status=status, message="stub")


def of_gcsfs(status: int) -> Exception:
    """What gs:// raises."""
    if status == 403:
        return OSError("Forbidden: museum/a.jpg\nno access")
    error = Exception("stub")
    error.code = status  # type: ignore[attr-defined]
    return error


class Refusing:
    """A file system of fsspec that answers each request with an error."""

    async_impl = True

    def __init__(self, error: Exception) -> None:
        from fsspec.asyn import get_loop

        self.error, self.loop, self.asked = error, get_loop(), 0

    async def _cat_file(self, path: str, **part: int) -> bytes:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize("made", [of_aiohttp, of_gcsfs])
@pytest.mark.parametrize(
    ("status", "asked"),
    [(s, 1) for s in (400, 403, 404, 410, 414, 451)] + [(s, 3) for s in (401, 407, 408, 429, 503)],
)
def test_other_services_say_by_a_status_what_is_of_one_object(
    monkeypatch: pytest.MonkeyPatch, made: Callable[[int], Exception], status: int, asked: int
) -> None:
    system = Refusing(made(status))
    monkeypatch.setattr(Storage, "_system", lambda *_: (system, "a.jpg"))
    with pytest.raises(DataError) as caught:
        Storage(attempts=3, first_wait=0.0).read("https://museum.org/a.jpg", 9)
    assert isinstance(caught.value, UnreachableError) == (asked == 3)
    assert system.asked == asked


@pytest.mark.parametrize("made", [of_aiohttp, of_gcsfs])
def test_an_empty_object_of_another_service_is_read(
    monkeypatch: pytest.MonkeyPatch, made: Callable[[int], Exception]
) -> None:
    monkeypatch.setattr(Storage, "_system", lambda *_: (Refusing(made(416)), "a.jpg"))
    assert Storage().read("https://museum.org/a.jpg", None) == b""


def test_a_first_object_that_may_not_be_read_begins_nothing(
    s3: tuple[Storage, FaultyS3], finished_run: Path, tmp_path: Path
) -> None:
    storage, server = s3
    write_manifest(["s3://museum/scans"], tmp_path / "m.parquet", storage=storage)
    server.refuse = "AccessDenied"
    with pytest.raises(UnreachableError, match="nothing was begun; check the credentials"):
        tag_manifest(
            finished_run, tmp_path / "m.parquet", tmp_path / "out", device="cpu", trust=True,
            storage=storage,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_errors_of_the_disk_and_a_disk_that_is_gone_are_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("unmounted", "empty"):
        for size in (9, None):
            with pytest.raises(UnreachableError, match="is the disk mounted"):
                Storage().read(str(tmp_path / folder / "a.jpg"), size)
    (tmp_path / "a.jpg").write_bytes(CONTENT)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("builtins.open", broken)
    with pytest.raises(UnreachableError, match="Input/output error"):
        Storage().read(str(tmp_path / "a.jpg"), None)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.filesystem", _raise_import_error)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[cloud\]'"):
        Storage().read("s3://museum/a.jpg", None)


def test_a_job_on_a_bucket_has_the_rows_of_the_folder(
    s3: tuple[Storage, FaultyS3], finished_run: Path, toy_images: ToyImages, tmp_path: Path
) -> None:
    storage, server = s3
    client = boto3.client("s3", endpoint_url=storage.options["endpoint_url"])
    client.create_bucket(Bucket="toys")
    failing = ("error500", "cut", "slow")
    for number, path in enumerate(sorted(toy_images.test.iterdir())):
        name = f"{path.stem}-{failing[number]}.png" if number < len(failing) else path.name
        client.put_object(Bucket="toys", Key=f"all/{name}", Body=path.read_bytes())
    client.put_object(Bucket="toys", Key="all/torn.png", Body=b"no image")
    server.requests.clear()
    frames = []
    for source in ("s3://toys/all", str(toy_images.test)):
        out = tmp_path / str(len(frames))
        write_manifest([source], tmp_path / "m.parquet", storage=storage)
        tag_manifest(
            finished_run, tmp_path / "m.parquet", out, device="cpu", trust=True, storage=storage
        )
        frames.append(pl.read_parquet(out / "part-*.parquet").drop("id", "uri"))
    bucket, folder = frames
    assert bucket["error"].null_count() == len(folder) == 16
    assert bucket.filter(pl.col("error").is_null()).equals(folder)
    assert {method for method, _ in server.requests} <= {"GET", "HEAD"}


def _raise_import_error(*_: object, **__: object) -> None:
    raise ImportError("s3fs")
