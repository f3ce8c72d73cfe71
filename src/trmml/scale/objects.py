"""Images in folders and in object storage: listed with their sizes, and read whole."""

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

# Bytes above which an object is not read: so many are held in memory, times those in flight.
MOST_BYTES = 64 * 2**20
_SECRET = re.compile("key|secret|token|password|passwd|credential|connection_string|sas", re.I)
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
# What is the matter with one object. Anything else may be over tomorrow, or is with all of them.
_OF_ONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_OF_ONE_FILE = {errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_OF_ALL = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip


@dataclass(frozen=True)
class Object:
    """One image of a manifest.

    Attributes:
        id: its name below the source; it is found by this name again.
        uri: absolute path, or URL.
        size: bytes; None where nobody has looked.
        etag: changes when the content does: the storage's own, or a file's time in nanoseconds.
    """

    id: str
    uri: str
    size: int | None
    etag: str | None


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

    options: Mapping[str, str] = field(default_factory=dict)
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
        reading = _local(uri) if "://" not in uri else self._remote(uri, size)
        content = self._tried(reading, uri, size)
        if len(content) > MOST_BYTES:
            raise DataError(f"{uri} has more than {MOST_BYTES} bytes; make it smaller")
        if size is not None and len(content) != size:
            raise DataError(
                f"{uri} has {len(content)} bytes, the manifest says {size}: it was cut off or"
                " changed; make the manifest anew"
            )
        return content

    def _tried(self, reading: Callable[[], bytes], uri: str, size: int | None) -> bytes:
        """What reading gives, at the first attempt that ends well and with the right size."""
        remote, content, last = "://" in uri, None, Exception()
        attempts = self.attempts if remote else 1
        for attempt in range(attempts):
            if attempt:
                time.sleep(random.uniform(0, self.first_wait * 2 ** (attempt - 1)))
            content = None
            try:
                content = reading()
            except DataError:
                raise
            except Exception as error:  # each storage has errors of its own
                if _is_of_one(error, uri, size):
                    words = getattr(error, "strerror", None) or str(error)
                    raise DataError(f"{uri} cannot be read: {words}. Check the name.") from error
                last = error
                if _code(error) in _OF_ALL:  # and another attempt would not help
                    break
                continue
            if size in (None, len(content)):
                return content
        if content is not None:  # the caller says that its size is another
            return content
        raise UnreachableError(
            f"{uri} was asked for {attempt + 1} times and did not come"
            f" ({type(last).__name__}: {last}); check the storage and the credentials, then run the"
            " same command again"
        ) from last

    def _remote(self, uri: str, size: int | None) -> Callable[[], bytes]:
        """Reads an object of fsspec's; each attempt ends after `timeout`."""
        system, path = self._system(uri)
        # One of unknown size may be larger than the memory.
        part = {} if size is not None else {"end": MOST_BYTES + 1}
        if not system.async_impl:
            return lambda: bytes(system.cat_file(path, **part))
        from fsspec.asyn import sync

        def read() -> bytes:
            try:
                found = sync(system.loop, system._cat_file, path, timeout=self.timeout, **part)
            except Exception as error:
                if part and _code(error) in ("InvalidRange", "416"):  # there is no first byte
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
        return _listed(source) if "://" not in source else self._listed(source)

    def _listed(self, source: str) -> Iterator[Object]:
        system, top = self._system(source)
        try:
            found = system.find(top, detail=True)
        except Exception as error:  # each storage has errors of its own
            raise DataError(
                f"{source} cannot be listed: {error}. Check its name and the credentials in the"
                " environment, and --storage-option."
            ) from error
        for path, about in sorted(found.items()):
            if not path.lower().endswith(SUFFIXES):
                continue
            name = path[len(top.rstrip("/")) :].lstrip("/") or path.rpartition("/")[2]
            etag = about.get("ETag") or about.get("etag")
            tag = None if etag is None else str(etag).strip('"')
            yield Object(name, str(system.unstrip_protocol(path)), about.get("size"), tag)


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
    """What the service calls an error, as `NoSuchBucket`; "" where it does not say."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    try:
        return str(response["Error"]["Code"])  # type: ignore[index]
    except (KeyError, TypeError):
        return ""


def _is_of_one(error: Exception, uri: str, size: int | None) -> bool:
    """Whether an error is the object's own, so that its row may say so for good."""
    if "://" in uri:
        return isinstance(error, _OF_ONE) and _code(error) not in _OF_ALL
    if isinstance(error, FileNotFoundError):  # what had a size had a folder: is the disk there?
        return size is None or os.path.isdir(os.path.dirname(uri))
    own = isinstance(error, OSError) and error.errno in _OF_ONE_FILE
    return own or isinstance(error, _OF_ONE) or not isinstance(error, OSError)


def _local(path: str) -> Callable[[], bytes]:
    def read() -> bytes:
        if is_special(path):
            raise DataError(f"{path} is a pipe, socket or device, not an image. Name a file.")
        with open(path, "rb") as file:
            return file.read(MOST_BYTES + 1)

    return read


def _listed(source: str) -> Iterator[Object]:
    """The images below a folder with their sizes; folder by folder, sorted by name."""
    top = os.path.abspath(source)
    if not os.path.isdir(top):
        yield file_object(source, os.path.basename(source))
        return
    for folder, entries in _folders(top):
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                stat = entry.stat()
                name = os.path.relpath(entry.path, top) if folder != top else entry.name
                uri = _unicode(entry.path)
                yield Object(name.replace(os.sep, "/"), uri, stat.st_size, f"{stat.st_mtime_ns:x}")


def file_object(path: str, name: str) -> Object:
    """A file by its path, with its size where it is there."""
    uri = _unicode(os.path.abspath(path))
    try:
        stat = os.stat(path)
    except OSError:  # its row will say why
        return Object(name, uri, None, None)
    return Object(name, uri, stat.st_size, f"{stat.st_mtime_ns:x}")


def _folders(top: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each folder with what lies in it; names that begin with a dot are passed over."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"cannot list the folder {folder}: {error.strerror}. Allow reading it."
            ) from error
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        waiting += [e.path for e in reversed(shown) if e.is_dir(follow_symlinks=False)]
        yield folder, shown


def _unicode(path: str) -> str:
    """The path, which a manifest can hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{path!r} has a name that is no UTF-8, which a manifest cannot hold; rename the file"
        ) from OSError(errno.EILSEQ, "no UTF-8")
    return path
