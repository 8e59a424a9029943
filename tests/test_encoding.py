"""Encoding to a dataset: the latents that the codec gives, whatever the batch, and a row for whatever comes."""

import hashlib
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import noise, silence, stereo, tone
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.encoding import pipeline, preparation
from audiovae.encoding.batches import Encoded
from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.pipeline import encode_recordings, settings_of
from audiovae.encoding.preparation import Analysis, Piece, RecordingFacts, prepare
from audiovae.encoding.restore import find_latents
from audiovae.encoding.run import Outcome, encode_dataset, local_encoder
from audiovae.latent_dataset.schema import Row
from audiovae.latent_dataset.torch_dataset import LatentDataset


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of all kinds of length, and two that are none."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "live").mkdir()
    # Nine pieces of 24 latent frames, where the longest batch has 40.
    Audio(noise(samples=850_000), 44_100).save(folder / "long.flac")
    for index, samples in enumerate((2_205, 4096, 30_000, 90_000, 95_000, 130_000)):
        Audio(noise(samples=samples, seed=index), 44_100).save(folder / f"{index}.wav")
    Audio(stereo(samples=80_000), 22_050).save(folder / "live" / "b.wav")
    Audio(tone(samples=9000), 48_000).save(folder / "live" / "c.ogg")
    Audio(silence(samples=9000), 44_100).save(folder / "silence.wav")
    (folder / "text.wav").write_text("not audio at all, but long enough to be looked at")
    (folder / "empty.wav").touch()
    return folder


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that little audio makes many pieces; 24 s make one otherwise."""
    monkeypatch.setattr(pipeline, "PIECE_LATENT_FRAMES", 24)


def rows_of(codec: Codec, recordings: list[Recording], *, workers: int = 0) -> list[Row]:
    settings = settings_of(codec, precision="float32", logvar=True)
    return list(encode_recordings(codec, recordings, settings, workers=workers))


def same(a: Row, b: Row) -> bool:
    tensors = all(
        (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))
        for x, y in ((a.mean, b.mean), (a.logvar, b.logvar))
    )
    facts = [{name: value for name, value in vars(row).items() if name not in ("mean", "logvar")} for row in (a, b)]
    return tensors and facts[0] == facts[1]


def encode(codec: Codec, music: Path, dataset: Path, **options: object) -> Outcome:
    settings = settings_of(codec)
    recordings = find_recordings([music])
    return encode_dataset(recordings, dataset, settings, local_encoder(codec, settings), **options)  # type: ignore[arg-type]


# --- latents ----------------------------------------------------------------------------------------------------------


def test_rows_hold_what_the_codec_gives_and_the_facts_of_the_file(codec: Codec, music: Path) -> None:
    recordings = find_recordings([music])
    rows = rows_of(codec, recordings)
    assert [row.source for row in rows] == [one.source for one in recordings]
    for row in rows:
        path = music / row.source
        assert (row.size, row.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
        if row.error is not None:
            continue
        latents = codec.encode(path)
        assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (row.samples, row.sample_rate, row.level_db) == (latents.samples, latents.sample_rate, latents.level_db)
        torch.testing.assert_close(row.mean, latents.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(row.logvar, latents.logvar, atol=1e-4, rtol=1e-5)
    assert {row.source: row.error for row in rows if row.error} == {
        "empty.wav": "damaged or not audio (WAV, FLAC, Ogg, Opus, MP3 and AIFF can be read)",
        "text.wav": "damaged or not audio (WAV, FLAC, Ogg, Opus, MP3 and AIFF can be read)",
    }


def test_latents_are_the_same_bytes_in_any_company_and_with_any_number_of_workers(codec: Codec, music: Path) -> None:
    recordings = find_recordings([music])
    together = rows_of(codec, recordings)
    for place in (0, 3, 7):
        assert same(rows_of(codec, [recordings[place]])[0], together[place])
    backwards = rows_of(codec, recordings[::-1], workers=2)[::-1]
    assert all(map(same, backwards, together))


def test_a_recording_that_does_not_fit_in_memory_is_read_twice(
    codec: Codec, music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = find_recordings([music / "long.flac", music / "live" / "b.wav"])
    whole = rows_of(codec, recordings)
    monkeypatch.setattr(preparation, "IN_MEMORY_SAMPLES", 1000)
    assert all(map(same, rows_of(codec, recordings), whole))


def test_members_of_archives_are_read(codec: Codec, music: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(music / "live" / "c.ogg", "c.ogg")
        tar.add(music / "text.wav", "text.wav")
    inside, outside = (
        rows_of(codec, find_recordings([tmp_path / "a.tar"])),
        rows_of(codec, find_recordings([music / "live" / "c.ogg"])),
    )
    assert inside[0].mean is not None and outside[0].mean is not None
    assert torch.equal(inside[0].mean, outside[0].mean)
    assert inside[0].sha256 == outside[0].sha256
    assert inside[1].error == "damaged or not audio (WAV, FLAC, Ogg, Opus, MP3 and AIFF can be read)"


def test_of_a_batch_no_more_is_kept_than_is_needed(codec: Codec) -> None:
    settings = settings_of(codec, precision="float32", logvar=True)
    assembly, batch = pipeline._Assembly([Recording("a.wav", "")], settings), torch.zeros(100, 8, 24)
    name = assembly.expect(0, Piece(torch.zeros(1, 10), 0, 24))
    assembly.put(Encoded((*name, 0), batch[3], batch[4]))
    for part in assembly.partial[0].parts[0, 0]:
        assert part is not None and part.untyped_storage().nbytes() == batch[0].nbytes


def test_latents_beyond_half_precision_are_a_failure_and_not_infinite(codec: Codec, music: Path) -> None:
    components = codec.checkpoint.model.components
    scale = components.scale.clone()
    try:
        components.scale.mul_(1e-8)
        (row,) = encode_recordings(codec, find_recordings([music / "2.wav"]), settings_of(codec))
    finally:
        components.scale.copy_(scale)
    assert row.error == "its latents are beyond the range of float16" and row.mean is None


# --- whatever comes ---------------------------------------------------------------------------------------------------


def test_names_that_cannot_be_opened_are_rows(codec: Codec, music: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "list.txt").write_bytes(b"missing.wav\nfolder.wav\nloop.wav\n" + b"x" * 300 + b".wav\nnul\0.wav\n")
    *errors, of_null = [row.error for row in rows_of(codec, find_recordings([tmp_path / "list.txt"]))]
    assert errors == [
        "No such file or directory",
        "is not a file",
        "Too many levels of symbolic links",
        "File name too long",
    ]
    assert of_null and "embedded null" in of_null  # in Python's own words, which change


def test_a_file_that_grows_while_it_is_read_is_a_failure(codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / "growing.wav"
    Audio(noise(samples=1_500_000), 44_100).save(path)
    (recording,) = find_recordings([path])
    messages = prepare(recording, Analysis(codec.config, 8, 24))
    assert isinstance(next(messages), Piece)
    with path.open("ab") as file:
        file.write(b"more")
    *_, last = messages
    assert isinstance(last, RecordingFacts) and last.error == "changed while it was read"


def test_an_input_that_disappears_is_a_row_and_done_when_it_is_back(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    for name in ("a.wav", "b.wav"):
        Audio(tone(samples=4000), 44_100).save(tmp_path / "music" / name)
    settings, recordings = settings_of(codec), find_recordings([tmp_path / "music"])
    kept = (tmp_path / "music" / "b.wav").rename(tmp_path / "b.wav")
    encoder = local_encoder(codec, settings)
    outcome = encode_dataset(recordings, tmp_path / "latents", settings, encoder)
    assert [(one.source, one.reason) for one in outcome.failures] == [("b.wav", "No such file or directory")]
    kept.rename(tmp_path / "music" / "b.wav")
    outcome = encode_dataset(recordings, tmp_path / "latents", settings, encoder)
    assert (outcome.encoded, outcome.done_before, outcome.failures) == (1, 1, [])
    assert len(list((tmp_path / "latents").glob("*failed*"))) == 0


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_second_run_does_only_what_is_missing_or_failed(codec: Codec, music: Path, tmp_path: Path) -> None:
    first = encode(codec, music, tmp_path / "latents")
    assert (first.encoded, first.done_before, len(first.failures), first.done) == (10, 0, 2, 12)
    again = encode(codec, music, tmp_path / "latents")
    assert (again.encoded, again.done_before, len(again.failures), again.total) == (0, 10, 2, 12)
    durations = [one.load().duration_seconds for one in find_latents(tmp_path / "latents")]
    assert first.audio_seconds == pytest.approx(sum(durations))
    shards = sorted(path.name for path in (tmp_path / "latents").glob("*.parquet"))
    assert shards == ["latents-000000.parquet", "latents-failed-000000.parquet"]


def test_fail_fast_stops_at_the_first_failure_and_keeps_what_was_done(
    codec: Codec, music: Path, tmp_path: Path
) -> None:
    outcome = encode(codec, music, tmp_path / "latents", fail_fast=True)
    assert outcome.stopped
    assert [failure.source for failure in outcome.failures] == ["empty.wav"]
    assert outcome.encoded == 6 == len(LatentDataset(tmp_path / "latents"))


def test_progress_tells_of_each_row(codec: Codec, music: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    encode(codec, music / "live", tmp_path / "latents")
    encode(codec, music, tmp_path / "latents", progress=lambda outcome: told.append((outcome.done, outcome.total)))
    assert told == [(done, 12) for done in range(2, 13)]
