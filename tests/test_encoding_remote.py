"""Recordings on S3: the dataset is that of the same files here. A real S3 API answers, on this machine."""

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import noise, stereo
from pyarrow.fs import FileInfo, FileType
from s3_server import environment, put, refuse_from_now, s3_server, upload
from tiny_codec import save_tiny
from typer.testing import CliRunner

from audiovae.audio import Audio
from audiovae.cli import app
from audiovae.codec import Codec, load
from audiovae.encoding import remote, workers
from audiovae.encoding.cluster import ClusterEncoder, _entry
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.preparation import Analysis, RecordingFacts, prepare
from audiovae.encoding.run import Outcome, encode_dataset, local_encoder
from audiovae.errors import InputError
from audiovae.latent_dataset.shards import find_shards, open_shard

pytest.importorskip("moto")
Rows = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings, a bad one, and what is none; names that are hard to spell."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "live" / "café").mkdir(parents=True)
    Audio(noise(samples=60_000), 44_100).save(folder / "a.flac")
    Audio(stereo(samples=30_000), 22_050).save(folder / "live" / "b.wav")
    Audio(noise(samples=30_000, seed=1), 44_100).save(folder / "live" / "café" / "50% #1 + [x]?.wav")
    Audio(noise(samples=30_000, seed=2), 44_100).save(folder / "live.wav")
    (folder / "bad.wav").write_text("no audio, but long enough to be looked at")
    (folder / "cover.jpg").write_text("a picture")
    (folder / ".hidden.wav").write_text("hidden")
    return folder


@pytest.fixture
def bucket(server: str, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same files in a bucket of the test's own, and no temporary files but in a folder of the test's own."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    remote._store_of.cache_clear()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # for processes that are started
    monkeypatch.setattr(tempfile, "tempdir", None)
    name = f"music-{tmp_path.name.replace('_', '-').lower()}"[:63].rstrip("-")
    upload(server, name, music)
    return name


def encode(codec: Codec, given: list[Path | str], dataset: Path, *, processes: int = 0, **options: Any) -> Outcome:
    settings = settings_of(codec)
    encoder = local_encoder(codec, settings, workers=processes)
    return encode_dataset(find_recordings(given), dataset, settings, encoder, **options)


def rows(dataset: Path) -> Rows:
    """By source."""
    table = pa.concat_tables([open_shard(shard).read() for shard in find_shards(dataset)])
    return {row["source"]: row for row in table.to_pylist()}


def without_place(found: Rows) -> Rows:
    return {source: {k: v for k, v in row.items() if k not in ("root", "mtime_ns")} for source, row in found.items()}


# --- what is meant ----------------------------------------------------------------------------------------------------


def test_a_bucket_is_like_a_folder(bucket: str, music: Path) -> None:
    here, there = find_recordings([music]), find_recordings([f"s3://{bucket}/"])
    assert [one.source for one in there] == [one.source for one in here]
    assert {one.root for one in there} == {f"s3://{bucket}"}
    assert [one.listed and one.listed[0] for one in there] == [one.path.stat().st_size for one in here]


def test_folders_objects_and_globs(bucket: str, music: Path) -> None:
    for given in (
        "live",
        "a.flac",
        "*.wav",
        "**/*.wav",
        "l*",
        "**",
        "**/l*",
        "live/*/50*",
        "live/café/50% #1 + [x]?.wav",
    ):
        here, there = find_recordings([f"{music}/{given}"]), find_recordings([f"s3://{bucket}/{given}"])
        assert [one.source for one in there] == [one.source for one in here], given
        assert [one.root for one in there] == [f"s3://{bucket}{one.root.removeprefix(str(music))}" for one in here]
    with pytest.raises(InputError, match=rf"^s3://{bucket}/\*\.ogg: no audio files in it$"):
        find_recordings([f"s3://{bucket}/*.ogg"])


def test_several_inputs_have_their_common_folder_or_keep_whole_paths(bucket: str, music: Path, server: str) -> None:
    put(server, "another", "live/b.wav", b"x")
    found = find_recordings([f"s3://{bucket}/live", f"s3://{bucket}/a.flac"])
    assert [(one.root, one.source) for one in found][1:] == [
        (f"s3://{bucket}", "live/café/50% #1 + [x]?.wav"),
        (f"s3://{bucket}", "a.flac"),
    ]
    found = find_recordings([f"s3://{bucket}/a.flac", "s3://another", music / "a.flac"])
    assert [(one.root, one.source) for one in found] == [
        ("s3://", f"{bucket}/a.flac"),
        ("s3://", "another/live/b.wav"),
        ("/", str(music / "a.flac").removeprefix("/")),
    ]
    assert [one.name for one in found[:2]] == [f"s3://{bucket}/a.flac", "s3://another/live/b.wav"]
    assert found[0].uri == f"s3://{bucket}/a.flac" and found[2].uri is None


def test_lists_and_manifests_here_and_there(bucket: str, music: Path, server: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{music}/a.flac\ns3://{bucket}/live/b.wav\n")
    found = find_recordings([tmp_path / "list.txt"])
    assert [one.name for one in found] == [f"{music}/a.flac", f"s3://{bucket}/live/b.wav"]
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": f"s3://{bucket}/a.flac"}))
    assert [one.uri for one in find_recordings([tmp_path / "m.jsonl"])] == [f"s3://{bucket}/a.flac"]
    put(server, bucket, "live/list.txt", f"b.wav\r\n../a.flac\n{music}/a.flac\n".encode())
    found = find_recordings([f"s3://{bucket}/live/list.txt"])
    assert [one.name for one in found] == [f"s3://{bucket}/live/b.wav", f"s3://{bucket}/a.flac", f"{music}/a.flac"]
    assert (found[0].root, found[0].source) == (f"s3://{bucket}/live", "b.wav")
    put(server, bucket, "m.jsonl", json.dumps({"audio_filepath": "a.flac"}).encode())
    assert [one.source for one in find_recordings([f"s3://{bucket}/m.jsonl"])] == ["a.flac"]
    put(server, bucket, "shard.tar", b"")
    with pytest.raises(InputError, match=rf"^s3://{bucket}/shard\.tar: an archive must be a file of this machine"):
        find_recordings([f"s3://{bucket}/shard.tar"])


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [0, 1])
def test_rows_are_those_of_the_same_files_here(
    codec: Codec, bucket: str, music: Path, tmp_path: Path, processes: int
) -> None:
    encode(codec, [music], tmp_path / "here")
    outcome = encode(codec, [f"s3://{bucket}"], tmp_path / "there", processes=processes)
    assert (outcome.encoded, len(outcome.failures)) == (4, 1)
    here, there = rows(tmp_path / "here"), rows(tmp_path / "there")
    assert list(without_place(there)) == list(without_place(here))
    assert without_place(there) == without_place(here)
    assert {row["root"] for row in there.values()} == {f"s3://{bucket}"}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_actor_of_a_cluster_fetches_its_own(codec: Codec, bucket: str, tmp_path: Path) -> None:
    recordings = find_recordings([f"s3://{bucket}/live"])
    encode(codec, [f"s3://{bucket}/live"], tmp_path / "here")
    batch = pa.Table.from_pylist([_entry(one) for one in recordings])
    actor = ClusterEncoder(str(codec.checkpoint.source), "cpu", settings_of(codec))
    assert {row["source"]: row for row in actor(batch).to_pylist()} == rows(tmp_path / "here")


def test_a_missing_object_in_a_manifest_is_a_failed_row(codec: Codec, bucket: str, tmp_path: Path) -> None:
    keys = ("live//b.wav", "gone.flac", "live", "a.flac")
    lines = [json.dumps({"path": f"s3://{bucket}/{key}"}) for key in keys]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    outcome = encode(codec, [tmp_path / "m.jsonl"], tmp_path / "latents")
    assert outcome.encoded == 1
    assert [failure.reason for failure in outcome.failures] == [
        f"Empty path component in path {bucket}/live//b.wav",
        "no such object",
        "is a folder",
    ]


def test_an_object_that_is_replaced_while_it_is_read(codec: Codec, bucket: str, server: str) -> None:
    [recording] = find_recordings([f"s3://{bucket}/a.flac"])
    messages = prepare(recording, Analysis(codec.config, 8, 24))
    next(messages)
    put(server, bucket, "a.flac", b"other")
    *_, last = messages
    assert isinstance(last, RecordingFacts) and last.error == "changed while it was read"


def test_temporary_files_of_a_run_that_is_cut_short_are_gone(
    codec: Codec, bucket: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that made them is killed with pieces that nobody wants any more."""
    monkeypatch.setattr(workers, "MESSAGES_AHEAD", 1)
    Audio(noise(samples=850_000), 44_100).save(tmp_path / "long.flac")
    put(server, bucket, "long.flac", (tmp_path / "long.flac").read_bytes())
    recordings = find_recordings([f"s3://{bucket}/long.flac"])
    messages = workers.prepared(recordings, Analysis(codec.config, 8, 24), workers=1)
    next(messages)
    assert len(list((tmp_path / "temporary").rglob("recording.flac"))) == 1
    messages.close()
    assert list((tmp_path / "temporary").iterdir()) == []


# --- again ------------------------------------------------------------------------------------------------------------


def test_a_second_run_does_what_is_missing(codec: Codec, bucket: str, server: str, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    assert encode(codec, [f"s3://{bucket}/a.flac"], dataset).encoded == 1
    outcome = encode(codec, [f"s3://{bucket}"], dataset)
    assert (outcome.encoded, outcome.done_before, outcome.changed) == (3, 1, 0)
    put(server, bucket, "new.flac", remote_bytes(f"s3://{bucket}/a.flac", tmp_path))
    outcome = encode(codec, [f"s3://{bucket}"], dataset)
    assert (outcome.encoded, outcome.done_before, outcome.changed) == (1, 4, 0)
    (tmp_path / "list.txt").write_text(f"s3://{bucket}/a.flac\ns3://{bucket}/live.wav")
    outcome = encode(codec, [tmp_path / "list.txt"], dataset)
    assert (outcome.encoded, outcome.done_before, outcome.changed) == (0, 2, 0)


def remote_bytes(uri: str, folder: Path) -> bytes:
    remote.fetch(uri, folder / "fetched")
    return (folder / "fetched").read_bytes()


def test_replaced_objects_are_told_of_and_done_again_when_asked(
    codec: Codec, bucket: str, server: str, tmp_path: Path
) -> None:
    dataset = tmp_path / "latents"
    encode(codec, [f"s3://{bucket}"], dataset)
    before = rows(dataset)["a.flac"]["sha256"]
    Audio(noise(samples=50_000, seed=7), 44_100).save(tmp_path / "other.flac")
    put(server, bucket, "a.flac", (tmp_path / "other.flac").read_bytes())
    (tmp_path / "list.txt").write_text(f"s3://{bucket}/a.flac")
    for given in (f"s3://{bucket}", tmp_path / "list.txt"):
        outcome = encode(codec, [given], dataset)
        assert (outcome.encoded, outcome.changed) == (0, 1)
    outcome = encode(codec, [f"s3://{bucket}"], dataset, redo="changed")
    assert (outcome.encoded, outcome.done_before) == (1, 3)
    assert rows(dataset)["a.flac"]["sha256"] != before
    put(server, bucket, "a.flac", (tmp_path / "other.flac").read_bytes())
    assert encode(codec, [f"s3://{bucket}"], dataset, redo="content").encoded == 0
    assert encode(codec, [f"s3://{bucket}"], dataset, redo="all").encoded == 4


def test_times_of_listings_are_those_of_objects() -> None:
    """MinIO lists milliseconds, but tells seconds of one object; Google tells milliseconds of both."""
    info = FileInfo("bucket/a.wav", FileType.File, mtime_ns=1_500_000_000_345_000_000, size=3)
    assert remote._looks(info, "s3://") == (3, 1_500_000_000_000_000_000)
    assert remote._looks(info, "gs://") == (3, 1_500_000_000_345_000_000)


def test_what_was_moved_to_another_bucket_is_done(
    codec: Codec, bucket: str, server: str, music: Path, tmp_path: Path
) -> None:
    dataset, other = tmp_path / "latents", f"{bucket}-2"[-63:]
    encode(codec, [f"s3://{bucket}/live"], dataset)
    upload(server, other, music / "live")
    outcome = encode(codec, [f"s3://{other}"], dataset)
    assert (outcome.encoded, outcome.done_before) == (2, 0), "the first bucket is still there: these are others"
    encode(codec, [f"s3://{bucket}/live"], tmp_path / "moved")
    time_before = remote.look_at(f"s3://{other}/b.wav")[1]
    while remote.look_at(f"s3://{other}/b.wav")[1] == time_before:
        upload(server, other, music / "live")
    remote._store(f"s3://{bucket}").delete_dir_contents(f"{bucket}/live")
    outcome = encode(codec, [f"s3://{other}"], tmp_path / "moved", redo="changed")
    assert (outcome.encoded, outcome.done_before, outcome.changed) == (0, 2, 0), "though a copy has a date of its own"


# --- what can't be read -----------------------------------------------------------------------------------------------


def test_what_is_not_there_is_one_line(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("s3://no-such-bucket/a.flac")
    for given, line in {
        f"s3://{bucket}/gone": f"s3://{bucket}/gone: no such object or folder",
        "s3://no-such-bucket": "s3://no-such-bucket: no such bucket",
        "s3://no-such-bucket/a.flac": "s3://no-such-bucket/a.flac: no such bucket",
        "s3://no-such-bucket/*.flac": r"s3://no-such-bucket/*.flac: no such bucket",
        str(tmp_path / "list.txt"): "s3://no-such-bucket/a.flac: no such bucket",
    }.items():
        with pytest.raises(InputError) as refused:
            find_recordings([given])
        assert str(refused.value) == line


def test_credentials_that_do_not_do_are_one_line_that_does_not_hold_them(
    bucket: str, server: str, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"s3://{bucket}/a.flac")
    refuse_from_now(server, True)
    try:
        for given in (f"s3://{bucket}", f"s3://{bucket}/a.flac", str(tmp_path / "list.txt")):
            with pytest.raises(
                InputError, match=rf"^s3://{bucket}[^ ]*: access denied, with the cred[^\n]*$"
            ) as refused:
                find_recordings([given])
            assert "SECRET" not in str(refused.value)
    finally:
        refuse_from_now(server, False)


def test_a_store_that_is_not_there_or_silent_is_one_line_soon(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        for listening in (False, True):
            silent.listen() if listening else None
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            remote._store_of.cache_clear()
            with pytest.raises(InputError, match=r"^s3://any/a\.wav: the store can't be reached: [^\n]{5,90}$"):
                find_recordings(["s3://any/a.wav"])


def test_a_store_that_goes_away_costs_no_row(
    codec: Codec, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was encoded stays; what could not be fetched failed, and is tried again."""
    encode(codec, [f"s3://{bucket}/a.flac"], tmp_path / "latents")
    recordings = find_recordings([f"s3://{bucket}/a.flac", f"s3://{bucket}/live.wav"])
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    remote._store_of.cache_clear()
    settings = settings_of(codec)
    outcome = encode_dataset(recordings, tmp_path / "latents", settings, local_encoder(codec, settings), redo="content")
    assert (outcome.encoded, outcome.done_before, len(outcome.failures)) == (0, 1, 1)
    assert outcome.failures[0].reason.startswith("the store can't be reached")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "When getting information for key 'x' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation: "
            "No response body. (Request ID: XYZ)",
            "access denied, with the credentials that were found, if any",
        ),
        (
            "When listing objects under key '' in bucket 'b': AWS Error INVALID_ACCESS_KEY_ID during ListObjectsV2 "
            "operation: The AWS Access Key Id you provided does not exist in our records. (Request ID: XYZ)",
            "the store refused (INVALID_ACCESS_KEY_ID): The AWS Access Key Id you provided does not exist in our "
            "records.",
        ),
        (
            "When getting information for key 'x' in bucket 'b': AWS Error UNKNOWN (HTTP status 400) during HeadObject "
            "operation: No response body.",
            "the store refused (HTTP status 400)",
        ),
        (
            "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of Could not create a "
            "OAuth2 access token to authenticate the request. PerformWork() - CURL error [6] error_info={reason=}",
            "no credentials were found",
        ),
        (
            "google::cloud::Status(PERMISSION_DENIED: Permanent error, with a last message of you may not "
            "error_info={reason=, domain=, metadata={}})",
            "access denied, with the credentials that were found, if any: you may not",
        ),
    ],
)
def test_what_stores_say_is_told_shortly(said: str, reason: str) -> None:
    assert remote._reason(said) == reason


def test_the_command_says_it_in_one_line(bucket: str, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["encode", f"s3://{bucket}-not", "--out", str(tmp_path / "latents")])
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr == f"audiovae: s3://{bucket}-not: no such bucket\n"
    assert not (tmp_path / "latents").exists()
