"""What a million tracks take besides the model: finding them, planning, writing, opening; measured, not guessed.

    python tests/benchmarks/million_tracks.py [--recordings 1000000] [--write README.md]

Each step in a process of its own, whose peak of memory is its own too. The recordings are empty files in folders of a
thousand, and rows of one latent frame; what is written are rows of four minutes in stereo. Needs 3 GB of disk.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import pyarrow.parquet  # noqa: F401  what importing it takes is no step's memory
import torch
from document import table, write_block
from encoding import EXAMPLES, WARM_UP, many_files, whole

import audiovae
from audiovae.config import Config
from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.resume import make_plan
from audiovae.encoding.writer import SHARD_BYTES, ShardWriter
from audiovae.latent_dataset.schema import DatasetSettings, Row
from audiovae.latent_dataset.shards import row_bytes
from audiovae.latent_dataset.torch_dataset import LatentDataset

CONFIG = Config()
SETTINGS = DatasetSettings(
    checkpoint="0123456789abcdef",
    sample_rate=CONFIG.spectrogram.sample_rate,
    latent_hop_length=CONFIG.latent_hop_length,
)
TRACK_SECONDS, LATENT_CHANNELS = 240, CONFIG.model.latent_channels
WRITTEN_BYTES = 2 << 30
FOLDER_FILES = 1000
Step = Callable[[Path], int]
"""Does a step in a folder; returns how many recordings or bytes it was about."""


def make_files(folder: Path, count: int) -> None:
    """Empty files that are taken for recordings."""
    for number in range(0, count, FOLDER_FILES):
        below = folder / "music" / f"{number // FOLDER_FILES:05}"
        below.mkdir(parents=True)
        for index in range(number, min(number + FOLDER_FILES, count)):
            (below / f"{index:07}.flac").touch()


def make_rows(folder: Path) -> int:
    """A dataset in which all of them are done."""
    recordings = find_recordings([folder / "music"])
    mean = torch.zeros(1, LATENT_CHANNELS, 1)
    with closing(ShardWriter(folder / "latents", SETTINGS, shard_bytes=8 << 20, shard_seconds=1e9)) as writer:
        for one in recordings:
            writer.add(_row(one, mean))
    return len(recordings)


def _row(one: Recording, mean: torch.Tensor) -> Row:
    status = one.path.stat()
    facts = {"sample_rate": 44_100, "samples": 44_100 * TRACK_SECONDS, "level_db": -20.0, "sha256": "ab" * 32}
    return Row(one.source, one.root, status.st_size, status.st_mtime_ns, mean=mean, **facts)  # type: ignore[arg-type]


def find(folder: Path) -> int:
    return len(find_recordings([folder / "music"]))


def plan_first(folder: Path) -> int:
    recordings = find_recordings([folder / "music"])
    return len(make_plan(recordings, folder / "none", SETTINGS, redo="missing").todo)


def plan_again(folder: Path) -> int:
    recordings = find_recordings([folder / "music"])
    return make_plan(recordings, folder / "latents", SETTINGS, redo="missing").done


def open_dataset(folder: Path) -> int:
    return len(LatentDataset(folder / "latents"))


def track_bytes() -> int:
    """Of a row of a track in stereo."""
    return row_bytes(Row("", "", mean=_track()))


def _track() -> torch.Tensor:
    frames = TRACK_SECONDS * SETTINGS.sample_rate // SETTINGS.latent_hop_length
    return torch.randn(2, LATENT_CHANNELS, frames).half()


def write(folder: Path) -> int:
    """Shards of the size that they have by default."""
    mean, count = _track(), WRITTEN_BYTES // track_bytes()
    with closing(ShardWriter(folder / "written", SETTINGS, shard_seconds=1e9)) as writer:
        for index in range(count):
            writer.add(Row(f"{index:07}.flac", "/music", 1, 1, "ab" * 32, None, 44_100, 1, 0.0, mean=mean.clone()))
    return sum(shard.stat().st_size for shard in writer.shards)


def timed(step: Step, folder: Path) -> tuple[int, float, float]:
    """What a step returned, its seconds, and the peak of its process in MB, less what importing took."""
    before = _peak_mb()
    start = time.perf_counter()
    done = step(folder)
    return done, time.perf_counter() - start, _peak_mb() - before


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def encode_rate(folder: Path, workers: int) -> float:
    """Seconds of one channel of the example clips that are encoded in a second, when all has started and compiled."""
    codec = audiovae.load(device="cpu")
    codec.encode(next(EXAMPLES.glob("*.flac")))
    (folder / "clips").mkdir()
    recordings = find_recordings([many_files(EXAMPLES, 240, folder / "clips")])
    warm = WARM_UP * workers
    (folder / "encoded").mkdir()
    seconds = whole(codec, recordings, folder / "encoded", workers, warm)
    facts = LatentDataset(folder / "encoded").facts
    columns = (facts[name].to_pylist() for name in ("samples", "sample_rate", "channels"))
    lengths = [samples / rate * channels for samples, rate, channels in zip(*columns, strict=True)]
    return sum(lengths[warm:]) / seconds


def measure(count: int, folder: Path) -> str:
    make_files(folder, count)
    for name in ("latents", "none", "written"):
        (folder / name).mkdir()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        steps = (find, plan_first, make_rows, plan_again, open_dataset, write)
        found = {step: pool.submit(timed, step, folder).result() for step in steps}
    assert [found[step][0] for step in steps if step is not write] == [count] * 5
    shards = len(list((folder / "latents").glob("*.parquet")))
    names = {
        find: "finding the files",
        plan_first: "finding and planning, the first run",
        plan_again: f"finding and planning, all done, in {shards} shards",
        open_dataset: "opening `LatentDataset`",
    }
    rows = [[name, f"{found[step][1]:.0f}", f"{found[step][2]:.0f}"] for step, name in names.items()]
    workers = os.cpu_count() or 1
    return (
        table([f"{count:,} recordings", "seconds", "memory, MB"], rows)
        + "\n\n"
        + describe(found[write], encode_rate(folder, workers), workers)
    )


def describe(written: tuple[int, float, float], times_real_time: float, cores: int) -> str:
    """What a million tracks take by the writer's bytes, seconds and memory, and by the rate of encoding."""
    written_bytes, seconds, peak = written
    audio_hours = 1e6 * TRACK_SECONDS / 3600
    hours, row = 2 * audio_hours / times_real_time, track_bytes()
    return (
        f"A million tracks of four minutes in stereo are {audio_hours:,.0f} hours. This machine's {cores} cores encode "
        f"a channel at {times_real_time:.0f} times real time: they take {hours:,.0f} hours, {hours * cores:,.0f} "
        f"core-hours. A track makes {row / 1e3:.0f} kB of latents, all {row / 1e6:.2f} TB, in "
        f"{1e6 * row / SHARD_BYTES:,.0f} shards of {SHARD_BYTES >> 20} MiB. The one writer makes "
        f"{written_bytes / seconds / 1e6:.0f} MB a second, {written_bytes / seconds / row:.0f} tracks, in {peak:.0f} "
        "MB of memory."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=1_000_000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        text = measure(arguments.recordings, Path(temporary))
    print(text)
    if arguments.write:
        write_block(arguments.write, "million", text)


if __name__ == "__main__":
    main()
