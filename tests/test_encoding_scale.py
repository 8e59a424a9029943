"""Many files: the memory stays, and each bad one costs itself only."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import Outcome, encode_dataset, local_encoder
from audiovae.latent_dataset.torch_dataset import LatentDataset

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
MIB = 1 << 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


def resident_bytes() -> int:
    """Memory of this process that is not swapped or shared with others' files."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_ten_thousand_files(codec: Codec, tmp_path: Path) -> None:
    """A shard is 500 rows here, so that what waits for the disk is as much at the first quarter as at the last."""
    music, count = tmp_path / "music", 10_000
    music.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        samples = generator.uniform(-0.5, 0.5, int(generator.integers(800, 8000)))
        soundfile.write(music / f"{index:05}.wav", samples.astype(np.float32), 16_000)
    memory: dict[int, int] = {}

    def remember(outcome: Outcome) -> None:
        if outcome.done % (count // 4) == 0:
            memory[outcome.done] = resident_bytes()

    settings, recordings = settings_of(codec), find_recordings([music])
    encoder = local_encoder(codec, settings, workers=2)
    start = time.monotonic()
    outcome = encode_dataset(
        recordings, tmp_path / "latents", settings, encoder, shard_bytes=250_000, progress=remember
    )
    seconds = time.monotonic() - start
    print(f"{count / seconds:.0f} files a second; MiB: {[round(one / MIB) for one in memory.values()]}")
    assert (outcome.encoded, outcome.failures) == (count, [])
    assert len(LatentDataset(tmp_path / "latents")) == count
    assert len(outcome.shards) > 10
    assert max(memory.values()) - memory[count // 4] < 16 * MIB


def write_mixed(folder: Path, count: int) -> None:
    """Excerpts of the example clips in six formats, five rates, mono and stereo."""
    clips = [Audio.load(path) for path in sorted(EXAMPLES.glob("*.flac"))]
    codings = [
        ("wav", "PCM_16"),
        ("wav", "FLOAT"),
        ("flac", "PCM_24"),
        ("ogg", "VORBIS"),
        ("mp3", None),
        ("aiff", None),
    ]
    for index in range(count):
        clip, (suffix, coding) = clips[index % len(clips)], codings[index % len(codings)]
        rate = (8000, 16_000, 22_050, 44_100, 48_000)[index % 5]
        start, samples = 1000 * index, 3000 + 997 * (index % 50)
        data = clip.waveform[: 1 + index % 2, start : start + samples].T.numpy()
        # Taken for another rate, it is another sound: any will do.
        soundfile.write(folder / f"{index:03}.{suffix}", data, rate, subtype=coding)


def break_files(paths: list[Path]) -> None:
    """Four ways in turn: emptied, cut in the header, filled with text, made a link to nothing."""
    for index, path in enumerate(paths):
        data = path.read_bytes()
        path.unlink()
        match index % 4:
            case 0:
                path.touch()
            case 1:
                path.write_bytes(data[:20])
            case 2:
                path.write_text("no audio " * 1000)
            case 3:
                path.symlink_to("nowhere" + path.suffix)


@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_bad_files_of_two_hundred_are_twenty_rows(codec: Codec, tmp_path: Path, workers: int) -> None:
    music = tmp_path / "music"
    music.mkdir()
    write_mixed(music, 200)
    files = sorted(music.iterdir())
    break_files(files[::10])
    settings, recordings = settings_of(codec), find_recordings([music])
    outcome = encode_dataset(
        recordings, tmp_path / "latents", settings, local_encoder(codec, settings, workers=workers)
    )
    assert (outcome.total, outcome.encoded) == (200, 180)
    assert [one.source for one in outcome.failures] == [path.name for path in files[::10]]
    assert all(one.reason for one in outcome.failures)
    dataset = LatentDataset(tmp_path / "latents")
    assert dataset.facts["source"].to_pylist() == [path.name for index, path in enumerate(files) if index % 10]
