"""Datasets of latents: names that mirror, runs that can be repeated, failures that are told."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import noise, stereo, tone
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.encoding import (
    FAILURES_FILE,
    SUFFIX,
    Named,
    Outcome,
    audio_names,
    decode_dataset,
    encode_dataset,
    find_latents,
    find_recordings,
)
from audiovae.errors import InputError
from audiovae.latents import Latents


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Three recordings in two folders, two of which differ in suffix only."""
    folder = tmp_path / "music"
    (folder / "live").mkdir(parents=True)
    Audio(tone(samples=9000), 44_100).save(folder / "a.wav")
    Audio(noise(samples=5000), 44_100).save(folder / "a.flac")
    Audio(stereo(samples=8000), 22_050).save(folder / "live" / "b.wav")
    return folder


def encode(codec: Codec, music: Path, dataset: Path, *, force: bool = False) -> Outcome:
    return encode_dataset(codec, find_recordings([music]), dataset, force=force)


def test_every_recording_has_its_own_latents_in_the_same_place(codec: Codec, music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    outcome = encode(codec, music, dataset)
    assert [file.name for file in find_latents(dataset)] == [f"a.flac{SUFFIX}", f"a.wav{SUFFIX}", f"live/b.wav{SUFFIX}"]
    assert len(outcome.written) == 3 and not outcome.skipped and not outcome.failures
    b = Latents.load(dataset / f"live/b.wav{SUFFIX}")
    assert (b.samples, b.sample_rate, b.channels, b.checkpoint) == (8000, 22_050, 2, codec.fingerprint)
    assert torch.equal(b.mean, codec.encode(music / "live" / "b.wav").mean)


def test_a_second_run_does_only_what_is_missing_changed_or_damaged(codec: Codec, music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    encode(codec, music, dataset)
    assert len(encode(codec, music, dataset).skipped) == 3
    (dataset / f"a.wav{SUFFIX}").write_bytes(b"damaged")
    (dataset / f"live/b.wav{SUFFIX}").unlink()
    later = (dataset / f"a.flac{SUFFIX}").stat().st_mtime + 10
    os.utime(music / "a.flac", (later, later))
    Audio(tone(samples=9000), 44_100).save(music / "new.wav")
    assert len(encode(codec, music, dataset).written) == 4
    outcome = encode_dataset(codec, find_recordings([music / "a.wav", music / "new.wav"]), dataset)
    assert len(outcome.skipped) == 2
    assert len(encode(codec, music, dataset, force=True).written) == 4


def test_a_run_that_is_interrupted_is_finished_by_the_next(
    codec: Codec, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, save, saved = tmp_path / "latents", Latents.save, []

    def interrupted(latents: Latents, path: Path, *, force: bool) -> None:
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(latents, path, force=force)

    with monkeypatch.context() as patched:
        patched.setattr(Latents, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encode(codec, music, dataset)
    assert [file.path for file in find_latents(dataset)] == saved
    assert len(encode(codec, music, dataset).written) == 2


def test_what_failed_is_listed_until_it_is_mended(codec: Codec, music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    (music / "text.wav").write_text("not audio at all, but long enough to be looked at")
    outcome = encode(codec, music, dataset)
    assert len(outcome.written) == 3
    assert [failure.reason.split(" (")[0] for failure in outcome.failures] == ["damaged or not audio"]
    (line,) = (dataset / FAILURES_FILE).read_text().splitlines()
    assert json.loads(line) == {"source": str(music / "text.wav"), "reason": outcome.failures[0].reason}
    Audio(tone(samples=4000), 44_100).save(music / "text.wav", force=True)
    assert not encode(codec, music, dataset).failures
    assert not (dataset / FAILURES_FILE).exists()


def test_progress_counts_what_is_done_already(codec: Codec, music: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    encode_dataset(codec, find_recordings([music / "a.wav"]), tmp_path / "latents")
    encode_dataset(
        codec, find_recordings([music]), tmp_path / "latents", progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_latents_of_another_model_are_not_mixed_in(codec: Codec, music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    encode(codec, music, dataset)
    other = load(save_tiny(tmp_path / "other.safetensors", seed=1), device="cpu")
    with pytest.raises(
        InputError, match=f"holds latents of checkpoint {codec.fingerprint}, this one is {other.fingerprint}"
    ):
        encode(other, music, dataset)
    assert len(encode(other, music, dataset, force=True).written) == 3


def test_names_from_several_places_neither_collide_nor_leave_the_dataset(music: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Audio(tone(samples=4000), 44_100).save(other / "a.wav")
    found = find_recordings([music, other / "a.wav", music / "live", music / ".." / "music" / "a.wav"])
    names = [one.name for one in found]
    assert sorted(names) == [
        f"music/a.flac{SUFFIX}",
        f"music/a.wav{SUFFIX}",
        f"music/live/b.wav{SUFFIX}",
        f"other/a.wav{SUFFIX}",
    ]
    assert len({one.path for one in found}) == len(found)
    assert [one.name for one in find_recordings([music / "live" / "b.wav"])] == [f"b.wav{SUFFIX}"]


def test_sources_are_written_relative_to_the_working_folder(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(one.path) for one in find_recordings([Path("music/live")])] == ["music/live/b.wav"]


def test_paths_without_recordings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no audio files in it"):
        find_recordings([tmp_path / "empty"])
    with pytest.raises(InputError, match="missing: no such file or folder"):
        find_recordings([tmp_path / "missing"])
    with pytest.raises(InputError, match="empty: no latents files in it"):
        find_latents(tmp_path / "empty")
    with pytest.raises(InputError, match="missing: no such file or folder"):
        find_latents(tmp_path / "missing")


def test_a_dataset_that_cannot_be_a_folder_is_refused(codec: Codec, music: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: is a file, not a folder"):
        encode(codec, music, tmp_path / "file")
    with pytest.raises(InputError, match="below: can't be made: Not a directory"):
        encode(codec, music, tmp_path / "file" / "below")


def test_audio_names_drop_the_old_suffix_where_they_stay_distinct() -> None:
    files = [
        Named(Path(name), f"{name}{SUFFIX}") for name in ("a.wav", "a.flac", "x/a.wav", "x/b.c.ogg", "B.wav", "b.ogg")
    ]
    assert audio_names(files, "wav") == ["a.wav.wav", "a.flac.wav", "x/a.wav", "x/b.c.wav", "B.wav.wav", "b.ogg.wav"]


def test_decoding_gives_what_the_codec_gives(codec: Codec, music: Path, tmp_path: Path) -> None:
    encode(codec, music, tmp_path / "latents")
    files = find_latents(tmp_path / "latents")
    targets = [tmp_path / "out" / name for name in audio_names(files, "flac")]
    gains_db = decode_dataset(codec, files, targets, quality="draft")
    for file, target, gain_db in zip(files, targets, gains_db, strict=True):
        latents, audio = Latents.load(file.path), Audio.load(target)
        assert (audio.samples, audio.sample_rate, audio.channels) == (
            latents.samples,
            latents.sample_rate,
            latents.channels,
        )
        expected = codec.decode(latents, quality="draft").waveform * 10 ** (gain_db / 20)
        torch.testing.assert_close(audio.waveform, expected, atol=1e-6, rtol=0)


def test_nothing_is_decoded_if_another_model_made_one_of_the_files(codec: Codec, music: Path, tmp_path: Path) -> None:
    encode(codec, music, tmp_path / "latents")
    other = load(save_tiny(tmp_path / "other.safetensors", seed=1), device="cpu")
    other.encode(music / "a.wav").save(tmp_path / "latents" / f"z{SUFFIX}")
    files = find_latents(tmp_path / "latents")
    message = f"z{SUFFIX}: encoded by checkpoint {other.fingerprint}, this one is {codec.fingerprint} "
    with pytest.raises(InputError, match=message):
        decode_dataset(codec, files, [tmp_path / f"{index}.wav" for index in range(len(files))])
    assert not list(tmp_path.glob("*.wav"))


def test_latents_of_another_recording_are_neither_taken_for_this_one_nor_lost(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        Audio(tone(samples=9000), 44_100).save(tmp_path / folder / "a.wav")
    dataset = tmp_path / "latents"
    encode(codec, tmp_path / "one", dataset)
    with pytest.raises(InputError, match=r"holds latents of .*one/a\.wav, not of .*other/a\.wav \(--force"):
        encode(codec, tmp_path / "other", dataset)
    monkeypatch.chdir(tmp_path / "one")  # the same recording under a shorter path
    assert len(encode(codec, Path("a.wav"), dataset).skipped) == 1


def test_a_name_too_long_for_latents_is_one_failure_and_not_the_end(codec: Codec, music: Path, tmp_path: Path) -> None:
    Audio(tone(samples=9000), 44_100).save(music / f"{'x' * 240}.wav")
    outcome = encode(codec, music, tmp_path / "latents")
    assert len(outcome.written) == 3
    (failure,) = outcome.failures
    assert failure.source.endswith("x.wav") and "File name too long" in failure.reason


def test_a_link_to_a_recording_that_is_gone_is_told(codec: Codec, music: Path, tmp_path: Path) -> None:
    (music / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    assert [one.reason for one in encode(codec, music, tmp_path / "latents").failures] == ["No such file or directory"]
