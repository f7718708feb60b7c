"""Warehouses on object stores: S3 and what speaks its protocol, with an atomic conditional put.

Address and keys are found where every S3 client finds them, by every command and every worker:
`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION`, a profile,
or the machine's own role. Beam's options (`--s3_endpoint_url`, `--s3_access_key_id`, ...) of
`queryloop night` go before them: on the driver, in workers of its process (in-process, Prism,
LOOPBACK) and in containers. A worker pool that was started beforehand (`EXTERNAL`), and the local
runner's `multi_processing`, are not told Beam's options: they need the environment.

Beam's own S3 client is left aside: it makes a new client for every operation (some 50 ms each),
reads from an offset to the end of the object for every range, and has no conditional put.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO, Any

from pipelines.store.beam_files import FileSystems

S3 = "s3://"
READ_AHEAD = 2 << 20  # bytes; what a store sends in the time that it takes to answer at all
IN_MEMORY = 16 << 20  # bytes of a file being written; what is beyond lies in a temporary file
_BATCH = 1000  # the most keys that one request may delete
_CURE = (
    "check AWS_ENDPOINT_URL or --s3_endpoint_url, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "where the workers run too, and that the bucket is there"
)


def use_options(beam_args: tuple[str, ...]) -> None:
    """Make Beam's file system options hold in this process, before any pipeline is made."""
    from apache_beam.options.pipeline_options import PipelineOptions

    FileSystems.set_options(PipelineOptions(list(beam_args)))


def without_secrets(beam_args: tuple[str, ...]) -> tuple[str, ...]:
    """The options as they may be written down: values of keys and tokens are left out."""
    secret = ("--s3_access_key_id", "--s3_secret_access_key", "--s3_session_token")
    shown, hide = [], False
    for arg in beam_args:
        name, given, _ = arg.partition("=")
        hide, this = False, "***" if hide else arg
        if name in secret:
            hide, this = not given, f"{name}=***" if given else name
        shown.append(this)
    return tuple(shown)


class S3Store:
    """What a warehouse does with objects of S3, each an URL `s3://bucket/key`."""

    def read_bytes(self, url: str) -> bytes:
        """The whole object."""
        bucket, key = _split(url)
        with _asking(url):
            return bytes(_client().get_object(Bucket=bucket, Key=key)["Body"].read())

    def exists(self, url: str) -> bool:
        """Whether there is an object."""
        try:
            self.size(url)
            return True
        except FileNotFoundError:
            return False

    def size(self, url: str) -> int:
        """Its bytes."""
        bucket, key = _split(url)
        with _asking(url):
            return int(_client().head_object(Bucket=bucket, Key=key)["ContentLength"])

    def list_names(self, folder: str) -> list[str]:
        """Names of the objects right below `folder`, sorted."""
        bucket, prefix = _split(folder.rstrip("/") + "/")
        with _asking(folder):
            pages = _client().get_paginator("list_objects_v2")
            found = pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
            keys = [o["Key"] for page in found for o in page.get("Contents", ())]
        return sorted(key.removeprefix(prefix) for key in keys)

    def list_tree(self, folder: str) -> list[tuple[str, int, float]]:
        """Key below `folder`, bytes and time of the last change (seconds) of every object."""
        bucket, prefix = _split(folder.rstrip("/") + "/")
        with _asking(folder):
            pages = (
                _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            )
            found = [o for page in pages for o in page.get("Contents", ())]
        return sorted(
            (o["Key"].removeprefix(prefix), int(o["Size"]), o["LastModified"].timestamp())
            for o in found
        )

    def remove(self, urls: list[str]) -> None:
        """Delete objects; those that are gone already do not matter."""
        for start in range(0, len(urls), _BATCH):
            places = [_split(url) for url in urls[start : start + _BATCH]]
            objects = {"Objects": [{"Key": key} for _, key in places], "Quiet": True}
            with _asking(urls[start]):
                done = _client().delete_objects(Bucket=places[0][0], Delete=objects)
            for failed in done.get("Errors", ()):
                raise ValueError(f"{urls[start]}: cannot delete {failed['Key']}: {failed['Code']}")

    def open(self, url: str) -> io.BufferedReader:
        """A seekable reader that asks for the ranges it needs, and `READ_AHEAD` beyond."""
        return io.BufferedReader(_Ranges(self, url), READ_AHEAD)

    def read_range(self, url: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end`, exclusive."""
        bucket, key = _split(url)
        span = f"bytes={start}-{end - 1}"
        with _asking(url):
            return bytes(_client().get_object(Bucket=bucket, Key=key, Range=span)["Body"].read())

    def new_file(self) -> IO[bytes]:
        """Where to write what `upload` is to send: nothing of it is in the store before."""
        return tempfile.SpooledTemporaryFile(IN_MEMORY)

    def upload(self, file: IO[bytes], url: str) -> None:
        """Make `file` the object at `url`, in parts where it is large."""
        bucket, key = _split(url)
        file.seek(0)
        with _asking(url):
            _client().upload_fileobj(file, bucket, key)

    def create_exclusive(self, url: str, content: bytes) -> bool:
        """Put `content` unless there is an object already; False then.

        A put whose answer was lost is sent again by the client and finds its own object: the object
        says which attempt made it.

        Raises:
            ValueError: The store cannot be reached, refuses, or ignores the condition.
        """
        attempt = uuid.uuid4().hex
        if self._put_new(url, content, attempt):
            self._check_conditions(url, content, attempt)
            return True
        bucket, key = _split(url)
        with _asking(url), suppress(FileNotFoundError):
            made_by = _client().head_object(Bucket=bucket, Key=key)["Metadata"].get("attempt")
            return bool(made_by == attempt)
        return False  # whoever made it has removed it again

    def _put_new(self, url: str, content: bytes, attempt: str) -> bool:
        """PutObject with `If-None-Match: *`; whether it made the object."""
        from botocore.exceptions import ClientError

        bucket, key = _split(url)
        put = {"Bucket": bucket, "Key": key, "Body": content, "Metadata": {"attempt": attempt}}
        with _asking(url):
            for pause in (0.1, 0.2, 0.4, 0.8, 1.6, None):
                try:
                    _client().put_object(**put, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status != 409 or pause is None:
                        if status == 412:
                            return False
                        raise
                    time.sleep(pause)  # another put of this key is under way
        return False

    def _check_conditions(self, url: str, content: bytes, attempt: str) -> None:
        """Once a process and bucket: the same put again must be refused, or nothing is atomic."""
        place = (id(_client()), _split(url)[0])
        if place in _keeps_conditions:
            return
        if self._put_new(url, content, attempt):
            raise ValueError(
                f"{url}: this store ignores If-None-Match, so of two nights published at once both "
                "would win; use one with conditional writes (AWS S3, R2, MinIO or Ceph of 2025)"
            )
        _keeps_conditions.add(place)


_keeps_conditions: set[tuple[int, str]] = set()


class _Ranges(io.RawIOBase):
    """An object as a seekable file; every read is one bounded request."""

    def __init__(self, store: S3Store, url: str) -> None:
        self._store, self._url, self._at = store, url, 0
        self._size = _size_of(url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self._store.read_range(self._url, self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@lru_cache(maxsize=4096)
def _size_of(url: str) -> int:
    """An object's bytes, asked once a process: what can be read in ranges never changes."""
    return S3Store().size(url)


def _split(url: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = url.removeprefix(S3).partition("/")
    if not bucket or not key:
        raise ValueError(f"{url!r} names no place in a bucket; write s3://BUCKET/FOLDER")
    return bucket, key


def _client() -> Any:
    """The client of this process for Beam's present options; safe to share between threads."""
    from apache_beam.options.pipeline_options import PipelineOptions, S3Options

    options = FileSystems._pipeline_options or PipelineOptions([])  # Beam has no public way
    s3 = options.view_as(S3Options)
    return _connect(
        ("endpoint_url", s3.s3_endpoint_url),
        ("region_name", s3.s3_region_name),
        ("aws_access_key_id", s3.s3_access_key_id),
        ("aws_secret_access_key", s3.s3_secret_access_key),
        ("aws_session_token", s3.s3_session_token),
        ("api_version", s3.s3_api_version),
        ("verify", s3.s3_verify),
        ("use_ssl", not s3.s3_disable_ssl),
    )


@lru_cache(maxsize=4)
def _connect(*settings: tuple[str, Any]) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError as error:
        raise ValueError(
            "s3:// needs the package boto3; pip install 'queryloop[s3]', on the workers too"
        ) from error
    # An address that does not answer is known within a minute.
    retries = {"mode": "standard", "total_max_attempts": 3}
    config = Config(connect_timeout=5, read_timeout=15, retries=retries)
    return boto3.session.Session().client("s3", config=config, **dict(settings))


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Errors of the store say which object, and what would do."""
    client = _client()  # first: without boto3 there are no errors of its to name
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchKey" or (code == "404" and error.operation_name == "HeadObject"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from error
        raise ValueError(f"{url}: {_one_line(error)}; {_CURE}") from error
    except BotoCoreError as error:
        where = client.meta.endpoint_url
        raise ValueError(f"{url} at {where}: {_one_line(error)}; {_CURE}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
