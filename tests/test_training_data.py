"""The cache of a folder."""

import errno
import json
import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.training import data
from audiovae.training.data import Cache, Skipped, open_cache
from audiovae.training.older_caches import in_use
from audiovae.training.segments import Segments

TINY = Path(data.__file__).parents[1] / "configs" / "tiny.toml"
CONFIG = Config.from_toml(TINY, ["data.gain_db=0.0", "data.pitch_semitones=0.0"])
SECOND = 44_100


def with_data(**values: object) -> Config:
    return CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update=values)})


def with_rate(sample_rate: int) -> Config:
    return Config.from_toml(TINY, [f"spectrogram.sample_rate={sample_rate}"])


def write_tone(
    path: Path, *, seconds: float = 1.0, frequency_hz: float = 440.0, sample_rate: int = SECOND, amplitude: float = 0.3
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    soundfile.write(path, amplitude * np.sin(2 * np.pi * frequency_hz * time), sample_rate, subtype="FLOAT")


def frequency_of(segment: torch.Tensor) -> float:
    """Of a tone in Hz, by the peak of a long, windowed, zero-padded spectrum."""
    spectrum = np.abs(np.fft.rfft(segment.numpy() * np.hanning(len(segment)), 1 << 20))
    return float(np.argmax(spectrum)) * SECOND / (1 << 20)


def rms_db(segment: torch.Tensor) -> float:
    return float(10 * torch.log10(segment.square().mean()))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        write_tone(tmp_path / "sounds" / f"{number}.wav", frequency_hz=300 + 100 * number)
    return tmp_path / "sounds"


@pytest.fixture
def cache(folder: Path, tmp_path: Path) -> Cache:
    return open_cache(folder, tmp_path / "cache", with_data(validation_share=0.0))


class TestCache:
    def test_holds_every_file_once_at_the_models_rate(self, tmp_path) -> None:
        write_tone(tmp_path / "in" / "slow.wav", sample_rate=8_000, seconds=1.0)
        write_tone(tmp_path / "in" / "deep" / "fast.wav", sample_rate=96_000, seconds=0.5)
        cache = open_cache(tmp_path / "in", tmp_path / "cache", CONFIG)
        assert [(one.path, one.samples) for one in cache.sources] == [("deep/fast.wav", 22_050), ("slow.wav", 44_100)]
        samples = np.fromfile(cache.audio, "<i2").astype(np.float32) / 32767
        assert len(samples) == 66_150
        for source in cache.sources:
            tone = torch.from_numpy(samples[source.offset : source.offset + source.samples])
            assert frequency_of(tone) == pytest.approx(440, abs=0.5)
            assert source.level_db == pytest.approx(20 * np.log10(1 / 2**0.5), abs=0.1)  # as it is stored

    def test_stereo_becomes_the_mean_of_its_channels(self, tmp_path) -> None:
        (tmp_path / "in").mkdir()
        frames = [[0.5, 0.1], [-0.5, -0.1], [0.3, -0.1], [-0.3, 0.1]]
        soundfile.write(tmp_path / "in" / "a.wav", np.tile(frames, (SECOND // 4, 1)), SECOND, subtype="FLOAT")
        cache = open_cache(tmp_path / "in", tmp_path / "cache", CONFIG)
        assert np.fromfile(cache.audio, "<i2")[:4].tolist() == [32767, -32767, 10922, -10922]

    def test_floats_beyond_full_scale_keep_their_shape(self, tmp_path) -> None:
        write_tone(tmp_path / "in" / "loud.wav", amplitude=4.0)
        write_tone(tmp_path / "same" / "soft.wav", amplitude=0.25)
        segments = [
            Segments(open_cache(tmp_path / name, tmp_path / "cache", CONFIG), "train", CONFIG, augment=False)[
                0
            ].waveform
            for name in ("in", "same")
        ]
        torch.testing.assert_close(*segments, atol=1e-4, rtol=0)

    def test_what_is_quiet_is_kept_as_finely_as_what_is_loud(self, tmp_path) -> None:
        """Noise of 16 bits, at the model's level, would be 30 dB louder than in the loud one."""
        heard = []
        for name, amplitude in (("loud", 0.9), ("soft", 0.03)):
            write_tone(tmp_path / name / "a.wav", amplitude=amplitude)
            cache = open_cache(tmp_path / name, tmp_path / "cache", CONFIG)
            heard.append(Segments(cache, "train", CONFIG, augment=False)[0].waveform)
        torch.testing.assert_close(*heard, atol=1e-5, rtol=0)

    def test_a_second_opening_decodes_nothing(self, folder, tmp_path, monkeypatch) -> None:
        first = open_cache(folder, tmp_path / "cache", CONFIG)
        monkeypatch.setattr(data, "AudioFile", lambda path: pytest.fail(f"{path} was opened"))
        assert open_cache(folder, tmp_path / "cache", CONFIG) == first

    def test_a_changed_file_is_decoded_again(self, folder, tmp_path) -> None:
        first = open_cache(folder, tmp_path / "cache", CONFIG)
        write_tone(folder / "0.wav", seconds=0.75)
        second = open_cache(folder, tmp_path / "cache", CONFIG)
        assert first.sources[0].samples == 44_100
        assert second.sources[0].samples == 33_075

    def test_another_folder_that_looks_the_same_is_another_cache(self, tmp_path) -> None:
        for name, frequency_hz in (("low", 300.0), ("high", 3000.0)):
            write_tone(tmp_path / name / "0.wav", frequency_hz=frequency_hz)
            os.utime(tmp_path / name / "0.wav", (0, 0))  # as in an archive
        low, high = (open_cache(tmp_path / name, tmp_path / "cache", CONFIG) for name in ("low", "high"))
        assert low.audio != high.audio
        (tmp_path / "low").rename(tmp_path / "moved")
        assert open_cache(tmp_path / "moved", tmp_path / "cache", CONFIG).audio == low.audio

    def test_what_changed_is_told_and_the_older_cache_is_replaced(self, folder, tmp_path, caplog) -> None:
        other = open_cache(folder, tmp_path / "cache", with_rate(48_000))
        first = open_cache(folder, tmp_path / "cache", CONFIG)
        assert not caplog.messages
        write_tone(folder / "0.wav", seconds=0.75)
        (folder / "1.wav").rename(folder / "new.wav")
        second = open_cache(folder, tmp_path / "cache", CONFIG)
        assert caplog.messages == [f"{folder}: 1 changed, 1 added, 1 removed since it was decoded: decoding it again"]
        files = {path.with_suffix(end) for path in (second.audio, other.audio) for end in (".int16", ".json")}
        assert set((tmp_path / "cache").iterdir()) == files and not first.audio.exists()
        open_cache(folder, tmp_path / "cache", CONFIG)
        assert len(caplog.messages) == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="what is open can't be removed there anyhow")
    def test_an_older_cache_stays_while_it_is_in_use(self, folder, tmp_path) -> None:
        first = open_cache(folder, tmp_path / "cache", CONFIG)
        with in_use(first.audio):
            write_tone(folder / "0.wav", seconds=0.75)
            open_cache(folder, tmp_path / "cache", CONFIG)
            assert first.audio.exists() and first.audio.with_suffix(".json").exists()
        write_tone(folder / "0.wav", seconds=0.8)
        last = open_cache(folder, tmp_path / "cache", CONFIG)
        assert list((tmp_path / "cache").glob("*.int16")) == [last.audio]
        with pytest.raises(InputError, match=f"{first.audio.name}: No such file or directory: another process removed"):
            in_use(first.audio)

    def test_an_older_cache_that_cannot_be_removed_is_found_again(self, folder, tmp_path, monkeypatch) -> None:
        """As on Windows, while another training reads it."""
        first, unlink = open_cache(folder, tmp_path / "cache", CONFIG), Path.unlink

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path == first.audio:
                raise PermissionError(errno.EACCES, "is used by another process")
            unlink(path, missing_ok=missing_ok)

        write_tone(folder / "0.wav", seconds=0.75)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            open_cache(folder, tmp_path / "cache", CONFIG)
        write_tone(folder / "0.wav", seconds=0.8)
        last = open_cache(folder, tmp_path / "cache", CONFIG)
        assert list((tmp_path / "cache").glob("*.int16")) == [last.audio]

    def test_an_older_cache_stays_until_the_new_one_is_whole(self, folder, tmp_path) -> None:
        def interrupt(done: int, of: int) -> None:
            raise KeyboardInterrupt

        first = open_cache(folder, tmp_path / "cache", CONFIG)
        write_tone(folder / "0.wav", seconds=0.75)
        with pytest.raises(KeyboardInterrupt):
            open_cache(folder, tmp_path / "cache", CONFIG, progress=interrupt)
        assert set((tmp_path / "cache").iterdir()) == {first.audio, first.audio.with_suffix(".json")}

    @pytest.mark.parametrize(
        "damage", [{"samples": -5}, {"samples": "many"}, {"offset": 7}, {"level_db": None}, {"path": ""}], ids=str
    )
    def test_a_damaged_index_is_made_again(self, folder, tmp_path, damage) -> None:
        first = open_cache(folder, tmp_path / "cache", CONFIG)
        index = first.audio.with_suffix(".json")
        content = json.loads(index.read_text())
        content["sources"][0] |= damage
        index.write_text(json.dumps(content))
        assert open_cache(folder, tmp_path / "cache", CONFIG) == first
        assert json.loads(index.read_text())["sources"][0]["samples"] == first.sources[0].samples

    def test_a_cut_or_missing_cache_is_made_again(self, folder, tmp_path) -> None:
        first = open_cache(folder, tmp_path / "cache", CONFIG)
        whole = first.audio.read_bytes()
        first.audio.write_bytes(whole[:-2])
        assert open_cache(folder, tmp_path / "cache", CONFIG).audio.read_bytes() == whole
        first.audio.unlink()
        assert open_cache(folder, tmp_path / "cache", CONFIG).audio.read_bytes() == whole

    def test_unusable_files_are_listed_with_their_reason_and_skipped(self, folder, tmp_path) -> None:
        write_tone(folder / "short.wav", seconds=0.1)
        write_tone(folder / "silent.wav", amplitude=0.0)
        (folder / "text.wav").write_text("not audio")
        (folder / "notes.txt").write_text("not even called audio")
        soundfile.write(folder / "nan.wav", np.full(SECOND, np.nan), SECOND, subtype="FLOAT")
        cache = open_cache(folder, tmp_path / "cache", CONFIG)
        assert {one.path for one in cache.sources} == {f"{number}.wav" for number in range(4)}
        reasons = {item.path: item.reason for item in cache.skipped}
        assert reasons.keys() == {"short.wav", "silent.wav", "text.wav", "nan.wav"}
        assert reasons["short.wav"] == "shorter than a segment (0.4 s)"
        assert reasons["silent.wav"] == "silent"
        assert reasons["nan.wav"] == "contains NaN or infinity"
        assert reasons["text.wav"].startswith("damaged or not audio")

    def test_shorter_segments_need_no_new_cache(self, folder, tmp_path, monkeypatch) -> None:
        write_tone(folder / "short.wav", seconds=0.3)
        assert Skipped("short.wav", "shorter than a segment (0.4 s)") in open_cache(folder, tmp_path, CONFIG).skipped
        monkeypatch.setattr(data, "AudioFile", lambda path: pytest.fail(f"{path} was opened"))
        assert open_cache(folder, tmp_path, with_data(segment_latent_frames=2)).skipped == ()

    def test_progress_counts_every_file(self, folder, tmp_path) -> None:
        seen: list[tuple[int, int]] = []
        open_cache(folder, tmp_path / "cache", CONFIG, progress=lambda done, of: seen.append((done, of)))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_two_processes_at_once_make_one_good_cache(self, folder, tmp_path) -> None:
        # Threads stand for processes: both see that there is no cache before either has made it.
        both = threading.Barrier(2)
        caches: list[Cache] = []

        def wait(done: int, of: int) -> None:
            if done == 1:
                both.wait(timeout=30)

        def work() -> None:
            caches.append(open_cache(folder, tmp_path / "cache", CONFIG, progress=wait))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(caches) == 2 and caches[0] == caches[1]
        assert caches[0].audio.stat().st_size == 4 * 2 * SECOND
        assert len(list((tmp_path / "cache").iterdir())) == 2


class TestRefusals:
    def test_empty_folder(self, tmp_path) -> None:
        with pytest.raises(InputError, match=r"no audio files in it$"):
            open_cache(tmp_path, tmp_path / "cache", CONFIG)

    def test_missing_folder(self, tmp_path) -> None:
        with pytest.raises(InputError, match=r"none: no such folder$"):
            open_cache(tmp_path / "none", tmp_path / "cache", CONFIG)

    def test_nothing_but_silence_and_shortness(self, tmp_path) -> None:
        for number in range(2):
            write_tone(tmp_path / f"silent{number}.wav", amplitude=0.0)
        write_tone(tmp_path / "short.wav", seconds=0.1)
        expected = "nothing to train on among its 3 audio files: 2 silent, 1 shorter than a segment"
        with pytest.raises(InputError, match=expected):
            open_cache(tmp_path, tmp_path / "cache", CONFIG)

    def test_everything_held_out_by_its_folders(self, tmp_path) -> None:
        write_tone(tmp_path / "valid" / "a.wav")
        with pytest.raises(InputError, match="nothing to train on among its 1 audio files: 1 in a valid folder"):
            open_cache(tmp_path, tmp_path / "cache", CONFIG)

    def test_a_disk_that_fills_leaves_nothing_behind(self, folder, tmp_path) -> None:
        with (
            files_no_larger_than(100_000),
            pytest.raises(InputError, match="can't hold the decoded audio: File too large"),
        ):
            open_cache(folder, tmp_path / "cache", CONFIG)
        assert list((tmp_path / "cache").iterdir()) == []

    def test_an_interrupt_leaves_nothing_behind(self, folder, tmp_path) -> None:
        def interrupt(done: int, of: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            open_cache(folder, tmp_path / "cache", CONFIG, progress=interrupt)
        assert list((tmp_path / "cache").iterdir()) == []

    def test_a_cache_folder_that_is_a_file(self, folder, tmp_path) -> None:
        (tmp_path / "cache").write_text("in the way")
        with pytest.raises(InputError, match="cache: can't hold the decoded audio: "):
            open_cache(folder, tmp_path / "cache", CONFIG)


class TestSplits:
    def splits(self, folder: Path, **settings: object) -> dict[str, str]:
        cache = open_cache(folder, folder.parent / "cache", with_data(**settings))
        return {source.path: source.split for source in cache.sources}

    def test_by_folder_wherever_it_stands_in_the_path(self, tmp_path) -> None:
        for name in ("a/train/1.wav", "a/valid/2.wav", "test/3.wav", "b/4.wav"):
            write_tone(tmp_path / "in" / name)
        assert self.splits(tmp_path / "in", validation_share=0.9) == {
            "a/train/1.wav": "train", "a/valid/2.wav": "valid", "test/3.wav": "test", "b/4.wav": "train",
        }  # fmt: skip

    def test_by_a_hash_that_other_files_do_not_change(self, tmp_path) -> None:
        for number in range(20):
            write_tone(tmp_path / "in" / f"{number}.wav", seconds=0.45)
        before = self.splits(tmp_path / "in", validation_share=0.4)
        assert {"train", "valid"} == set(before.values())
        write_tone(tmp_path / "in" / "more.wav")
        after = self.splits(tmp_path / "in", validation_share=0.4)
        assert {path: after[path] for path in before} == before

    def test_a_single_file_is_trained_on_and_nothing_is_held_out(self, tmp_path) -> None:
        write_tone(tmp_path / "in" / "only.wav")
        assert self.splits(tmp_path / "in", validation_share=1.0) == {"only.wav": "train"}
        cache = open_cache(tmp_path / "in", tmp_path / "cache", with_data(validation_share=1.0))
        assert cache.split("valid") == ()

    def test_another_share_needs_no_new_cache(self, folder, tmp_path) -> None:
        self.splits(folder, validation_share=0.0)
        self.splits(folder, validation_share=0.5)
        assert len(list((tmp_path / "cache").glob("*.int16"))) == 1


def test_index_is_readable_json_that_names_every_file(cache) -> None:
    content = json.loads(cache.audio.with_suffix(".json").read_text())
    assert [source["path"] for source in content["sources"]] == ["0.wav", "1.wav", "2.wav", "3.wav"]
