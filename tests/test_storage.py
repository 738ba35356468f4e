from __future__ import annotations

import hashlib
import io
import logging
import multiprocessing
import os
import pickle
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline.config import RetryConfig
from pipeline.errors import (
    AccessDenied,
    AlreadyExists,
    BucketNotFound,
    ConfigError,
    MotionmillError,
    ObjectNotFound,
    StorageError,
)
from pipeline.faults import redact, scrub
from pipeline.storage import Storage, ordered
from pipeline.stores import FsspecStore, local
from tests.conftest import S3Env
from tests.s3 import SECRET_KEY, FaultProxy

QUICK = RetryConfig(storage_max_wait_s=0.3)
BYTES = random.Random(1).randbytes(1_500_000)


@pytest.fixture(params=["local", "memory", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place in each kind of store."""
    if request.param == "local":
        yield str(tmp_path / "out")
    elif request.param == "memory":
        yield f"memory://test-{os.urandom(4).hex()}"
    else:
        yield request.getfixturevalue("s3_env").uri + "/out"


def test_what_was_put_is_read_back_whole_and_in_part(prefix: str) -> None:
    storage = Storage(QUICK)
    uri = f"{prefix}/a b/ü.bin"
    storage.put(uri, BYTES)
    assert storage.read_bytes(uri) == BYTES
    assert storage.read_range(uri, 1000, 1010) == BYTES[1000:1010]
    assert storage.info(uri).size == len(BYTES)
    with storage.open(uri) as file:
        for place in (1_400_000, 0, 700_000, 299_999, 3):
            file.seek(place)
            assert file.read(70_000) == BYTES[place : place + 70_000]
        assert file.seek(0, io.SEEK_END) == len(BYTES)
        assert file.read(1) == b""


def test_reading_on_in_sequence_needs_few_requests_and_a_jump_fetches_little(s3_env: S3Env) -> None:
    storage = Storage(QUICK)
    storage.put(f"{s3_env.uri}/v", BYTES * 8)
    proxy = s3_env.proxy()
    storage = Storage(QUICK)
    with storage.open(f"{s3_env.uri}/v") as file:
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(BYTES * 8).digest()
    assert proxy.requests["GET"] <= 10


def test_listing_is_recursive_and_ordered_in_every_store(prefix: str) -> None:
    storage = Storage(QUICK)
    names = ["a/b.mp4", "a.mp4", "a/c/d.mp4", "a-b.mp4", "B.mp4", "é.mp4"]
    for name in names:
        storage.put(f"{prefix}/{name}", b"x")
    storage.put(f"{prefix}2/other", b"x")
    found = [info.uri.removeprefix(f"{prefix}/") for info in storage.list(prefix)]
    if prefix.startswith("s3"):
        found = sorted(found, key=str.encode)  # SeaweedFS lists folder by folder; AWS in byte order
    assert found == sorted(names, key=str.encode)
    assert list(storage.list(f"{prefix}/none")) == []
    storage.delete_many(info.uri for info in list(storage.list(prefix)))
    assert list(storage.list(prefix)) == []


def test_a_long_listing_comes_in_pages(s3_env: S3Env) -> None:
    storage = Storage(QUICK)
    list(ordered(lambda n: storage.put(f"{s3_env.uri}/p/{n:05d}", b""), range(1100)))
    assert [int(info.uri[-5:]) for info in storage.list(f"{s3_env.uri}/p")] == list(range(1100))


def test_a_second_conditional_put_is_refused_and_changes_nothing(prefix: str) -> None:
    storage = Storage(QUICK)
    storage.put_if_absent(f"{prefix}/c.json", b"first")
    with pytest.raises(AlreadyExists, match=r"c\.json"):
        storage.put_if_absent(f"{prefix}/c.json", b"second")
    assert storage.read_bytes(f"{prefix}/c.json") == b"first"
    assert storage.put_if_absent_or_same(f"{prefix}/c.json", b"first")
    assert not storage.put_if_absent_or_same(f"{prefix}/c.json", b"second")


def test_of_many_racing_creators_exactly_one_wins(prefix: str) -> None:
    storage = Storage(QUICK)
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return storage.put_if_absent_or_same(f"{prefix}/race", str(number).encode())

    won = list(ordered(create, range(8), workers=8))
    assert won.count(True) == 1
    assert storage.read_bytes(f"{prefix}/race") == str(won.index(True)).encode()


def test_files_travel_both_ways_in_parts_and_appear_whole(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stores.s3.PART_SIZE", 5 << 20)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BYTES * 8)
    storage = Storage(QUICK)
    info = storage.put_file(source, f"{prefix}/big")
    assert info.size == source.stat().st_size
    if prefix.startswith("s3"):
        assert info.version.endswith("-3")
    storage.get_file(f"{prefix}/big", target)
    assert target.read_bytes() == source.read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_a_writable_place_passes_the_check_and_is_left_clean(prefix: str) -> None:
    storage = Storage(QUICK)
    storage.check_writable(prefix)
    assert list(storage.list(prefix)) == []


def test_missing_objects_are_told_from_trouble(prefix: str) -> None:
    storage = Storage(QUICK)
    storage.put(f"{prefix}/there", b"x")
    assert storage.exists(f"{prefix}/there")
    assert not storage.exists(f"{prefix}/not there")
    assert not storage.exists(prefix)
    assert storage.is_folder(prefix)
    assert not storage.is_folder(f"{prefix}/there")
    with pytest.raises(ObjectNotFound, match="not there"):
        storage.read_bytes(f"{prefix}/not there")
    storage.delete(f"{prefix}/not there")
    assert storage.retries == 0


def test_an_object_replaced_while_it_is_read_is_never_mixed(s3_env: S3Env) -> None:
    storage = Storage(QUICK)
    storage.put(f"{s3_env.uri}/v", BYTES)
    with storage.open(f"{s3_env.uri}/v") as file:
        file.read(10)
        storage.put(f"{s3_env.uri}/v", BYTES[::-1])
        file.seek(1_400_000)
        with pytest.raises(StorageError, match="changed while it was read"):
            file.read(10)


def test_what_a_killed_writer_left_half_written_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    storage = Storage(QUICK)
    started, go_on = multiprocessing.get_context("fork").Event(), multiprocessing.get_context("fork").Event()

    def write() -> None:
        sync = local._sync

        def wait(file: BinaryIO) -> None:
            started.set()
            assert go_on.wait(60)
            sync(file)

        local._sync = wait
        storage.put_if_absent(str(tmp_path / "deep" / "object"), b"whole")

    for killed in (False, True):
        writer = multiprocessing.get_context("fork").Process(target=write)
        writer.start()
        assert started.wait(60)
        started.clear()
        (half,) = (tmp_path / "deep").iterdir()
        storage.sweep(str(tmp_path))
        assert half.exists(), "its writer lives"
        if killed:
            writer.kill()
        else:
            go_on.set()
        writer.join(60)
        assert half.exists() == killed
        assert [info.uri for info in storage.list(str(tmp_path))] == ([] if killed else [str(tmp_path / "deep/object")])
        storage.sweep(str(tmp_path))
        assert not half.exists()
        storage.delete(str(tmp_path / "deep" / "object"))
        go_on.clear()


# ---- faults


@pytest.mark.parametrize("fault", ["503", "reset", "truncate", "lost_ack", "delay"])
def test_every_object_arrives_under_a_fault_in_five_requests(s3_env: S3Env, fault: str) -> None:
    proxy = s3_env.proxy(every={fault: 5})
    proxy.delay_s = 0.05
    storage = Storage(QUICK)
    content = {f"{s3_env.uri}/f/{n:02d}": os.urandom(5000) for n in range(24)}
    assert all(ordered(lambda item: storage.put_if_absent_or_same(*item), content.items(), workers=6))
    assert dict(storage.read_many(content)) == content
    assert [info.uri for info in storage.list(f"{s3_env.uri}/f")] == list(content)
    assert proxy.injected[fault] >= 4, "24 objects and more are put, and as many are read"
    if fault == "503":
        assert storage.retries >= proxy.injected["503"]


def test_parts_survive_faults_one_by_one(s3_env: S3Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stores.s3.PART_SIZE", 5 << 20)
    (tmp_path / "big").write_bytes(BYTES * 20)
    proxy = s3_env.proxy(every={"503": 5, "reset": 7, "lost_ack": 6, "truncate": 6})
    storage = Storage(QUICK)
    storage.put_file(tmp_path / "big", f"{s3_env.uri}/big")
    storage.get_file(f"{s3_env.uri}/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == BYTES * 20
    assert proxy.injected.total() > 2


def test_a_lost_acknowledgement_is_recognised_as_ones_own_success(s3_env: S3Env) -> None:
    proxy = s3_env.proxy()
    proxy.only = lambda method, path: method == "PUT"
    proxy.script = ["lost_ack"]
    assert Storage(QUICK).put_if_absent_or_same(f"{s3_env.uri}/c", b"attempt 1")
    assert proxy.injected["lost_ack"] == 1
    assert not Storage(QUICK).put_if_absent_or_same(f"{s3_env.uri}/c", b"attempt 2")


def test_a_store_that_stays_unwell_is_an_error_after_the_configured_tries(s3_env: S3Env) -> None:
    proxy = s3_env.proxy(every={"503": 1})
    storage = Storage(RetryConfig(storage_attempts=3, storage_max_wait_s=0.1))
    with pytest.raises(StorageError, match=r"after 3 tries.*SlowDown|after 3 tries"):
        storage.read_bytes(f"{s3_env.uri}/x")
    assert proxy.requests["GET"] == 3
    assert storage.retries == 2


def test_answers_are_not_retried(s3_env: S3Env) -> None:
    proxy = s3_env.proxy()
    storage = Storage(QUICK)
    with pytest.raises(ObjectNotFound):
        storage.read_bytes(f"{s3_env.uri}/x")
    assert proxy.requests.total() == 1


# ---- wrong usage


def test_a_wrong_secret_is_access_denied_and_never_shown(
    s3_env: S3Env, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = "this-wrong-secret-is-still-secret"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
    caplog.set_level(logging.DEBUG, "pipeline")
    caplog.set_level(logging.DEBUG, "s3fs")
    for call in (Storage(QUICK).check_writable, Storage(QUICK).read_bytes, lambda uri: list(Storage(QUICK).list(uri))):
        with pytest.raises(AccessDenied) as caught:
            call(f"{s3_env.uri}/out")
        assert s3_env.bucket in str(caught.value)
        assert wrong not in repr(caught.value)
        assert caught.value.__suppress_context__
    assert wrong not in caplog.text
    assert SECRET_KEY not in caplog.text


def test_missing_credentials_are_named_with_the_remedy(
    s3_env: S3Env, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(AccessDenied, match="set AWS_ACCESS_KEY_ID"):
        Storage(QUICK).check_writable(s3_env.uri)


def test_a_missing_bucket_is_named_and_not_made(s3_env: S3Env) -> None:
    storage = Storage(QUICK)
    for call in (storage.check_writable, storage.read_bytes, lambda uri: list(storage.list(uri))):
        with pytest.raises(BucketNotFound, match="'no-such-bucket' does not exist; create it"):
            call("s3://no-such-bucket/out")


def test_a_place_that_cannot_be_written_is_told_before_any_work() -> None:
    with pytest.raises(MotionmillError, match="/proc/motionmill"):
        Storage(QUICK).check_writable("/proc/motionmill")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_access_denied(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AccessDenied, match=str(tmp_path)):
        Storage(QUICK).check_writable(str(tmp_path / "out"))


def test_a_permission_error_is_access_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(AccessDenied, match="check the credentials and the rights"):
        Storage(QUICK).check_writable(str(tmp_path / "out"))


def test_a_store_without_conditional_puts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FsspecStore, "create", FsspecStore.put)
    with pytest.raises(ConfigError, match="only if absent"):
        Storage(QUICK).check_writable("memory://careless")


def test_an_unknown_scheme_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="no store for xyz://"):
        Storage(QUICK).read_bytes("xyz://a/b")


def test_secrets_in_urls_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    signed = "https://user:pw@host/v.mp4?X-Amz-Signature=abc&X-Amz-Credential=def"
    assert redact(signed) == "https://***@host/v.mp4?X-Amz-Signature=***&X-Amz-Credential=***"
    assert redact("s3://bucket/what?.mp4") == "s3://bucket/what?.mp4"
    assert scrub(f"GET {signed} failed with hush-hush") == f"GET {redact(signed)} failed with ***"


# ---- processes and threads


def _read_in_child(storage: Storage, uri: str, answers: multiprocessing.Queue[bytes]) -> None:
    answers.put(storage.read_bytes(uri))


def test_it_is_pickled_without_its_connections_and_works_in_a_forked_child(s3_env: S3Env) -> None:
    storage = Storage(QUICK)
    storage.put(f"{s3_env.uri}/x", b"content")  # the parent is connected
    assert pickle.loads(pickle.dumps(storage)).read_bytes(f"{s3_env.uri}/x") == b"content"
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read_in_child, args=(storage, f"{s3_env.uri}/x", answers))
    child.start()
    assert answers.get(timeout=30) == b"content"
    child.join(10)
    assert storage.read_bytes(f"{s3_env.uri}/x") == b"content"


def test_the_proxy_passes_signed_requests_unchanged(s3_env: S3Env) -> None:
    proxy = s3_env.proxy()
    assert isinstance(proxy, FaultProxy)
    Storage(QUICK).check_writable(s3_env.uri)
    assert proxy.requests["PUT"] == 2
