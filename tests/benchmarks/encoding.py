"""How fast a folder is encoded, beside what decoding and the model alone would allow, and what half precision costs.

    python tests/benchmarks/encoding.py [FOLDER] [--workers N] [--device cpu] [--files 200] [--write README.md]

FOLDER (by default the clips of data/examples, copied until there are enough) is decoded without a model, encoded from
memory without files, and encoded as ``audiovae encode`` does it. Start-up of the processes and loading of the model are
left out. The three take turns, and medians over the rounds are told; where the rounds differ much, the machine was
busy. Then the same with one process that decodes and one thread for the model, a core each: how far the pipeline lets
them work at the same time.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from document import table, write_block

import audiovae
from audiovae.codec import Codec
from audiovae.encoding import pipeline
from audiovae.encoding.batches import BatchEncoder
from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.pipeline import encode_recordings, settings_of
from audiovae.encoding.preparation import Analysis, Piece, RecordingFacts, prepare
from audiovae.encoding.workers import Message, prepared
from audiovae.encoding.writer import ShardWriter
from audiovae.latent_dataset.torch_dataset import LatentDataset

EXAMPLES = Path(__file__).parents[2] / "data" / "examples"
WARM_UP = 4
"""Recordings for each worker that are decoded before the clock starts."""


class Clock:
    """Starts when so many recordings are decoded: rows come in order, so that one late process holds up the first."""

    def __init__(self, warm: int) -> None:
        self.warm, self.start = warm, time.perf_counter()

    def listen(self, messages: Iterator[tuple[int, Message]]) -> Iterator[tuple[int, Message]]:
        for message in messages:
            self.warm -= isinstance(message[1], RecordingFacts)
            yield message
            if isinstance(message[1], RecordingFacts) and self.warm == 0:
                self.start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.start


def decode_only(recordings: list[Recording], analysis: Analysis, workers: int, warm: int) -> float:
    clock = Clock(warm)
    deque(clock.listen(prepared(recordings, analysis, workers=workers)), maxlen=0)
    return clock.seconds()


def model_only(
    codec: Codec, recordings: list[Recording], analysis: Analysis, seconds_kept: float
) -> tuple[float, float]:
    """Seconds that the pieces of some recordings take in memory, and the seconds of audio in them."""
    pieces: list[Piece] = []
    audio = 0.0
    for recording in recordings:
        for message in prepare(recording, analysis):
            if isinstance(message, Piece):
                pieces.append(message)
            elif message.samples and message.sample_rate:
                audio += message.samples / message.sample_rate
        if audio > seconds_kept:
            break
    for timed in (False, True):
        with BatchEncoder(codec, analysis) as encoder:
            start = time.perf_counter()
            for piece in pieces if timed else pieces[:WARM_UP]:
                for channel in piece.waveform:
                    list(encoder.add(channel, slice(piece.first, piece.last), 0))
            list(encoder.finish())
            seconds = time.perf_counter() - start
    return seconds, audio


def whole(codec: Codec, recordings: list[Recording], dataset: Path, workers: int, warm: int) -> float:
    settings, clock = settings_of(codec), Clock(warm)

    def listened(*arguments: Any, **options: Any) -> Iterator[tuple[int, Message]]:
        with closing(prepared(*arguments, **options)) as messages:
            yield from clock.listen(messages)

    with mock.patch.object(pipeline, "prepared", listened), closing(ShardWriter(dataset, settings)) as writer:
        for row in encode_recordings(codec, recordings, settings, workers=workers):
            writer.add(row)
    return clock.seconds()


def half_precision_loss(codec: Codec, dataset: Path, count: int) -> tuple[float, float]:
    """Largest error of a latent in standard deviations of its posterior, and the spectrogram's RMS error in dB."""
    from audiovae.cli.sound_folder import distance_db

    rows, worst, worst_db = LatentDataset(dataset), 0.0, 0.0
    for index in range(min(count, len(rows))):
        kept = rows.latents(index)
        exact = codec.encode(Path(rows.facts["root"][index].as_py(), kept.source))
        assert exact.logvar is not None
        worst = max(worst, float(((kept.mean - exact.mean).abs() / (exact.logvar / 2).exp()).max()))
        spectrograms = codec.spectrogram_of(kept), codec.spectrogram_of(exact)
        worst_db = max(worst_db, distance_db(*spectrograms, codec.config.spectrogram))
    return worst, worst_db


def many_files(folder: Path, count: int, target: Path) -> Path:
    clips = sorted(folder.glob("*.flac"))
    for index in range(count):
        shutil.copy(clips[index % len(clips)], target / f"{index:05}.flac")
    return target


def measure(arguments: argparse.Namespace, temporary: Path) -> str:
    codec = audiovae.load(device=arguments.device)
    (temporary / "music").mkdir()
    folder = arguments.folder or many_files(EXAMPLES, arguments.files, temporary / "music")
    recordings = list(islice(find_recordings([folder]), arguments.files))
    warm = min(WARM_UP * max(1, arguments.workers), len(recordings) // 2)
    analysis = Analysis(codec.config, codec.checkpoint.model.context_latent_frames, pipeline.PIECE_LATENT_FRAMES)
    facts = [message for one in recordings for message in prepare(one, analysis) if isinstance(message, RecordingFacts)]
    lengths = [one.samples / one.sample_rate if one.samples and one.sample_rate else 0.0 for one in facts]
    audio = sum(lengths[warm:])

    def rates(workers: int, name: str) -> list[tuple[float, float, float]]:
        rounds = []
        for number in range(arguments.rounds):
            decoding = audio / decode_only(recordings, analysis, workers, warm)
            model, model_audio = model_only(codec, recordings, analysis, 600.0)
            dataset = temporary / f"{name}{number}"
            dataset.mkdir()
            rounds.append((decoding, model_audio / model, audio / whole(codec, recordings, dataset, workers, warm)))
        return rounds

    machine = f"{codec.device.type}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    setting = f"{machine}, {arguments.workers} workers, {len(recordings)} files of {sum(lengths) / len(lengths):.0f} s."
    all_cores = rates(arguments.workers, "latents")
    loss = half_precision_loss(codec, temporary / "latents0", 5)
    torch.set_num_threads(1)
    text = describe(all_cores, audio / (len(lengths) - warm), loss)
    return f"{setting}\n\n{text} {describe_a_core_each(rates(1, 'core'))}"


def describe(rounds: list[tuple[float, float, float]], file_seconds: float, loss: tuple[float, float]) -> str:
    """The rates of the rounds, in times real time, for files of so many seconds."""
    decoding, model, pipe = (statistics.median(column) for column in zip(*rounds, strict=True))
    shares = [100 * whole_rate / min(parts) for *parts, whole_rate in rounds]
    rows = [
        ["decoding alone", f"{decoding:.0f}", f"{decoding / file_seconds:.1f}"],
        ["model alone", f"{model:.0f}", ""],
        ["**encode**", f"{pipe:.0f}", f"{pipe / file_seconds:.1f}"],
    ]
    possible = [100 * whole_rate * (1 / one + 1 / other) for one, other, whole_rate in rounds]
    return (
        table(["", "times real time", "files a second"], rows)
        + f"\n\nThe whole reaches {statistics.median(shares):.0f} % ({min(shares):.0f} to {max(shares):.0f} in "
        f"{len(shares)} rounds) of the slower part. Where both work on the same cores, "
        f"{1 / (1 / decoding + 1 / model):.0f} would be possible; it reaches {statistics.median(possible):.0f} % of "
        f"that. Half precision moves a latent by at most {loss[0]:.3f} of its "
        f"posterior's standard deviation, the decoded spectrogram by {loss[1]:.3f} dB."
    )


def describe_a_core_each(rounds: list[tuple[float, float, float]]) -> str:
    """The same for one process that decodes beside one thread for the model."""
    decoding, model, pipe = (statistics.median(column) for column in zip(*rounds, strict=True))
    shares = [100 * whole_rate / min(parts) for *parts, whole_rate in rounds]
    return (
        f"With a core each, decoding alone makes {decoding:.0f}, the model alone {model:.0f}, the whole {pipe:.0f} "
        f"times real time: {statistics.median(shares):.0f} % ({min(shares):.0f} to {max(shares):.0f}) of the slower "
        "part."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        text = measure(arguments, Path(temporary))
    print(text)
    if arguments.write:
        write_block(arguments.write, "encoding", text)


if __name__ == "__main__":
    main()
