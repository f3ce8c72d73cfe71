"""Images in object storage and on disks: listed with their sizes, and read whole."""

import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trmml.errors import ConfigError, DataError, MissingExtraError
from trmml.image_search import SUFFIXES
from trmml.images import is_special
from trmml.scale.folders import Object, listed

# Bytes above which an object is not read: so many are held in memory, times those in flight.
MOST_BYTES = 64 * 2**20
_SECRET = re.compile("key|secret|token|password|passwd|credential|connection_string|sas", re.I)
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
# What is the matter with one object. Anything else may be over tomorrow, or is with all of them.
_OF_ONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_OF_ONE_STATUS = {"400", "403", "404", "410", "414", "451"}
_OF_ONE_FILE = {errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_OF_ALL = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip


class UnreachableError(DataError):
    """The storage did not answer, however often it was asked; nothing is said of the image."""


@dataclass(frozen=True)
class Storage:
    """How objects are read.

    Args:
        options: what fsspec takes for the protocol, as `endpoint_url`; no credentials, which come
            from the environment.
        attempts: at most, of each object.
        first_wait: seconds; a wait is drawn from 0 to this, doubled after each attempt.
        timeout: seconds of one attempt.

    Raises:
        ConfigError: an option is a credential.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 5
    first_wait: float = 0.5
    timeout: float = 120.0

    def __post_init__(self) -> None:
        """Refuse credentials, which others can see on a command line."""
        if secret := next((name for name in self.options if _SECRET.search(name)), None):
            raise ConfigError(
                f"--storage-option {secret} would show a secret to everyone on this machine; set"
                " it in the environment, as AWS_SECRET_ACCESS_KEY"
            )

    def read(self, uri: str, size: int | None) -> bytes:
        """The content of an object.

        Args:
            uri: see `Object`.
            size: that it must have; None for any.

        Raises:
            DataError: it is missing, may not be read, is too large or has another size.
            UnreachableError: the storage did not answer.
        """
        if size is not None and size > MOST_BYTES:
            raise DataError(
                f"{uri} has {size} bytes, at most {MOST_BYTES} are read; make it smaller"
            )
        most = MOST_BYTES if size is None else size
        reading = _local(uri, most) if "://" not in uri else self._remote(uri, most)
        content = self._tried(reading, uri, size)
        if size is None and len(content) > MOST_BYTES:
            raise DataError(f"{uri} has more than {MOST_BYTES} bytes; make it smaller")
        if size is not None and len(content) != size:
            has = f"more than {size}" if len(content) > size else str(len(content))
            raise DataError(
                f"{uri} has {has} bytes, the manifest says {size}: it was cut off or changed; make"
                " the manifest anew"
            )
        return content

    def _tried(self, reading: Callable[[], bytes], uri: str, size: int | None) -> bytes:
        """What reading gives, at the first attempt that ends well and with the right size."""
        remote, content, last = "://" in uri, None, Exception()
        attempts = self.attempts if remote else 1
        for attempt in range(attempts):
            self._wait(attempt)
            content = None
            try:
                content = reading()
            except DataError:
                raise
            except Exception as error:  # each storage has errors of its own
                if _is_of_one(error, uri):
                    words = getattr(error, "strerror", None) or str(error)
                    raise DataError(f"{uri} cannot be read: {words}. Check the name.") from error
                last = error
                if _code(error) in _OF_ALL:  # and another attempt would not help
                    break
                continue
            if size is None or len(content) >= size:  # a longer one has changed
                return content
        if content is not None:  # the caller says that its size is another
            return content
        if not remote and isinstance(last, FileNotFoundError):
            raise UnreachableError(
                f"{uri} is not there, and its folder is gone or empty: is the disk mounted? Else"
                " make the manifest anew"
            ) from last
        raise UnreachableError(
            f"{uri} was asked for {attempt + 1} times and did not come"
            f" ({type(last).__name__}: {last}); check the storage and the credentials, then run the"
            " same command again"
        ) from last

    def _wait(self, attempt: int) -> None:
        """Wait before an attempt, but the first."""
        if attempt:
            time.sleep(random.uniform(0, self.first_wait * 2 ** (attempt - 1)))

    def _remote(self, uri: str, most: int) -> Callable[[], bytes]:
        """Reads at most a byte more of an object of fsspec's; each attempt ends after `timeout`."""
        system, path = self._system(uri)
        part = {"end": most + 1}
        if not system.async_impl:
            return lambda: bytes(system.cat_file(path, **part))
        from fsspec.asyn import sync

        def read() -> bytes:
            try:
                found = sync(system.loop, system._cat_file, path, timeout=self.timeout, **part)
            except Exception as error:
                if _code(error) in ("InvalidRange", "416"):  # there is no first byte
                    return b""
                raise
            return bytes(found)

        return read

    def _system(self, uri: str) -> tuple[Any, str]:
        """The file system of fsspec for a URL, and the path in it."""
        options: dict[str, Any] = dict(self.options)
        if uri.startswith("s3://"):  # one place tries again, not three
            config = {"retries": {"total_max_attempts": 1}, "read_timeout": 60}
            options = {"config_kwargs": config, **options}
        protocol = uri.partition("://")[0]
        try:
            import fsspec

            system = fsspec.filesystem(protocol, **options)
            path = system._strip_protocol(uri)  # a name is a name, whatever stands in it
        except ImportError:
            raise MissingExtraError(f"reading {protocol}://", "cloud") from None
        except (ValueError, TypeError) as error:
            raise DataError(f"{uri} cannot be opened: {error}. Check how it begins.") from error
        if uri.startswith("s3://"):
            system.retries = system.max_concurrency = 1  # one request each, and no HEAD before it
        return system, path

    def find(self, source: str) -> Iterator[Object]:
        """All images below a folder or URL, or the one file that it names.

        Raises:
            DataError: nothing is there, it may not be listed, or a name is no Unicode.
        """
        refuse_password(source)
        return listed(source) if "://" not in source else self._listed(source)

    def _listed(self, source: str) -> Iterator[Object]:
        system, top = self._system(source)
        if source.startswith("s3://"):
            found = self._pages(source, system, top)
        else:
            found = iter(sorted(self._asked(source, lambda: system.find(top, detail=True)).items()))
        for path, about in found:
            if not path.lower().endswith(SUFFIXES):
                continue
            name = path[len(top.rstrip("/")) :].lstrip("/") or path.rpartition("/")[2]
            etag = about.get("ETag") or about.get("etag")
            tag = None if etag is None else str(etag).strip('"')
            yield Object(name, str(system.unstrip_protocol(path)), about.get("size"), tag)

    def _pages(self, source: str, system: Any, top: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Objects of S3 with what the list says of them, a page of a thousand at a time."""
        from fsspec.asyn import sync

        bucket, key, _ = system.split_path(top)
        given = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}

        def page() -> Any:
            call = system._call_s3
            return sync(system.loop, call, "list_objects_v2", timeout=self.timeout, **given)

        some = False
        while True:
            found = self._asked(source, page)
            for about in found.get("Contents", []):
                some = True
                yield f"{bucket}/{about['Key']}", {**about, "size": about["Size"]}
            if not found.get("IsTruncated"):
                break
            given["ContinuationToken"] = found["NextContinuationToken"]
        if key and not some:  # it names one object
            yield top, self._asked(source, lambda: system.info(top))

    def _asked(self, source: str, ask: Callable[[], Any]) -> Any:
        """What a storage says of a source, asked for again where it does not answer.

        Raises:
            DataError: it does not answer, or refuses.
        """
        for attempt in range(self.attempts):
            self._wait(attempt)
            try:
                return ask()
            except Exception as error:  # each storage has errors of its own
                last = error
                if _is_of_one(error, source) or _code(error) in _OF_ALL:
                    break
        raise DataError(
            f"{source} cannot be listed: {last}. Check its name and the credentials in the"
            " environment, and --storage-option."
        ) from last


def refuse_password(url: str) -> None:
    """Raise where a URL holds a password, which a manifest and each message would show.

    Raises:
        ConfigError: it does.
    """
    if _PASSWORD.search(url):
        raise ConfigError(
            f"a URL of {url.partition('://')[0]}:// holds a password, which the manifest would"
            " show; take it out, and set it in the environment"
        )


def _code(error: BaseException) -> str:
    """What the service calls an error, as `NoSuchBucket`, or its HTTP status; "" without either."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    try:
        return str(response["Error"]["Code"])  # type: ignore[index]
    except (KeyError, TypeError):
        pass
    if type(error) is OSError and str(error).startswith("Forbidden"):  # all that gcsfs says
        return "403"
    status = getattr(error, "status", None)
    if status is None:  # aiohttp warns of `code`
        status = getattr(error, "code", None)
    return str(status) if isinstance(status, int | str) else ""


def _is_of_one(error: Exception, uri: str) -> bool:
    """Whether an error is the object's own, so that its row may say so for good."""
    if "://" in uri:
        own = isinstance(error, _OF_ONE) or _code(error) in _OF_ONE_STATUS
        return own and _code(error) not in _OF_ALL
    if isinstance(error, FileNotFoundError):  # where nothing is, a disk may be missing
        return _holds_something(os.path.dirname(uri) or ".")
    own = isinstance(error, OSError) and error.errno in _OF_ONE_FILE
    return own or isinstance(error, _OF_ONE) or not isinstance(error, OSError)


def _holds_something(folder: str) -> bool:
    """Whether a folder is there with an entry in it: a place for a disk is empty without."""
    try:
        with os.scandir(folder) as found:
            return next(found, None) is not None
    except OSError:
        return False


def _local(path: str, most: int) -> Callable[[], bytes]:
    """Reads at most a byte more of a file."""

    def read() -> bytes:
        if is_special(path):
            raise DataError(f"{path} is a pipe, socket or device, not an image. Name a file.")
        with open(path, "rb") as file:
            return file.read(most + 1)

    return read
