"""What a million tracks take besides the model: finding them, planning, writing, opening; measured, not guessed.

    python tests/benchmarks/million_tracks.py [--recordings 1000000] [--write README.md]

Each step in a process of its own, whose peak of memory is its own too. The recordings are empty files in folders of a
thousand, and rows of one latent frame; what is written are rows of four minutes in stereo. Needs 3 GB of disk.
"""

import argparse
import multiprocessing
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

from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.resume import make_plan
from audiovae.encoding.writer import SHARD_BYTES, ShardWriter
from audiovae.latent_dataset.schema import DatasetSettings, Row
from audiovae.latent_dataset.shards import row_bytes
from audiovae.latent_dataset.torch_dataset import LatentDataset

SETTINGS = DatasetSettings(checkpoint="0123456789abcdef", sample_rate=44_100, latent_hop_length=4096)
TRACK_SECONDS, LATENT_CHANNELS = 240, 64
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


def measure(count: int, folder: Path) -> str:
    make_files(folder, count)
    for name in ("latents", "none", "written"):
        (folder / name).mkdir()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        found: dict[Step, tuple[int, float, float]] = {}
        for step in (find, plan_first, make_rows, plan_again, open_dataset, write):
            found[step] = pool.submit(timed, step, folder).result()
    assert [found[step][0] for step in (find, plan_first, plan_again, open_dataset)] == [count] * 4
    finding = found[find][1]
    shards = len(list((folder / "latents").glob("*.parquet")))
    steps = [
        ("finding the files", find, finding),
        ("finding and planning, first run", plan_first, found[plan_first][1]),
        (f"finding and planning, all done, {shards} shards", plan_again, found[plan_again][1]),
        ("opening `LatentDataset`", open_dataset, found[open_dataset][1]),
    ]
    rows = [[f"{name}", f"{seconds:.0f}", f"{found[step][2]:.0f}"] for name, step, seconds in steps]
    written, seconds, peak = found[write]
    per_second = written / seconds
    return (
        table([f"{count:,} recordings", "seconds", "memory, MB"], rows)
        + f"\n\nA track of four minutes in stereo takes {track_bytes() / 1e3:.0f} kB: "
        f"{track_bytes() / 1e6 * 1e6 / 1e6:.2f} TB a million, in {1e6 * track_bytes() / SHARD_BYTES:,.0f} shards of "
        f"{SHARD_BYTES >> 20} MiB. The writer makes {per_second / 1e6:.0f} MB a second, "
        f"{per_second / track_bytes():.0f} tracks, in {peak:.0f} MB of memory."
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
