"""Streaming: how long until the first block, how fast after that, how good beside the whole, and in what memory.

    python tests/benchmarks/streaming.py [CLIP...] [--level FOLDER...] [--minutes 60] [--write FILE]

CPU time on one thread. The recording is the clips (by default the stereo ones of data/examples) joined, over and over,
for --minutes. Spectral convergence is that of the sound's STFT magnitudes to those of the decoder, over 20 s and over
the three frames around each join alone. With --level, the files of a folder are joined, in the order of their names, to
recordings of five minutes; each is decoded whole, and its level compared with the estimate that a long stream starts
with.
"""

import argparse
import itertools
import math
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from document import table, write_block
from torch import Tensor

import audiovae
from audiovae.audio import Audio
from audiovae.audio_folder import find_audio
from audiovae.codec import BLOCK_SECONDS, Codec
from audiovae.decoded_level import estimated_level_db, level_db_of
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.latents import Latents

EXAMPLES = Path(__file__).parents[2] / "data" / "examples"
CLIPS = ("ambient", "concerto_bach", "orchestra_grieg")
QUALITIES = ("draft", "standard")
BLOCKS_SECONDS = (0.25, 0.5, 1.0, 2.0, BLOCK_SECONDS)
SHORT_SECONDS = 24.0


def joined(paths: list[Path], rate: int) -> Audio:
    return Audio(torch.cat([Audio.load(path).resample(rate).waveform for path in paths], dim=1), rate)


def repeated(latents: Latents, seconds: float, codec: Codec) -> Latents:
    """The latents over and over, for a recording of about so many seconds."""
    frames = round(seconds * codec.config.latent_rate)
    mean = latents.mean.repeat(1, 1, -(-frames // latents.latent_frames))[..., :frames]
    return replace(latents, mean=mean, logvar=None, samples=(frames - 1) * codec.config.latent_hop_length)


def timed(blocks: Iterator[Tensor], seconds: float, rate: int) -> tuple[float, float]:
    """CPU seconds to the first block, and times real time of those after it."""
    start = time.process_time()
    next(blocks)
    first = time.process_time() - start
    made, start = 0, time.process_time()
    while made < seconds * rate:
        made += next(blocks).shape[1]
    return first, made / rate / (time.process_time() - start)


def convergence_db(codec: Codec, latents: Latents, quality: str, block_seconds: float) -> tuple[float, float]:
    """Of the whole, and of the frames around joins; NaN where there are none."""
    blocks = list(codec.stream(latents, quality=quality, block_seconds=block_seconds))
    config = codec.config.spectrogram
    made = stft_magnitude(torch.cat(blocks, dim=1), n_fft=config.n_fft, hop_length=config.hop_length)
    true = codec.spectrogram.magnitude(codec.spectrogram_of(latents))[..., : made.shape[2]]
    made = made[..., : true.shape[2]]
    made = made * (made * true).sum() / made.square().sum()
    ends = list(itertools.accumulate(block.shape[1] for block in blocks))[:-1]
    near = sorted({end // config.hop_length + shift for end in ends for shift in (-1, 0, 1)})

    def over(frames: list[int] | slice) -> float:
        error = (made - true)[..., frames].norm() / true[..., frames].norm()
        return 20 * math.log10(float(error))

    return over(slice(None)), over(near) if near else math.nan


def rows(codec: Codec, latents: Latents, long: Latents) -> list[list[str]]:
    """A line for each quality and block length."""
    lines = []
    for quality in QUALITIES:
        for block in BLOCKS_SECONDS:
            first, speed = timed(codec.stream(long, quality=quality, block_seconds=block), 2 * block + 4, 44100)
            whole_db, joins_db = convergence_db(codec, latents, quality, block)
            figures = [f"{first:.2f}", f"{speed:.1f}", f"{whole_db:.2f}", f"{joins_db:.2f}"]
            lines.append([quality, f"{block:g}", *figures])
    return lines


def level_errors_db(codec: Codec, folders: list[Path], seconds: float = 300.0) -> list[float]:
    """Estimate less truth, of each recording that a folder's files make."""
    rate, errors = codec.config.spectrogram.sample_rate, []
    for folder in folders:
        held: list[Path] = []
        files = find_audio(folder)
        for path in files:
            held.append(path)
            if sum(Audio.load(one).duration_seconds for one in held) < seconds and path != files[-1]:
                continue
            mean = codec.encode(joined(held, rate)).mean
            whole = [codec.spectrogram.magnitude(piece) for piece in codec.spectrogram_chunks(mean)]
            true_db = level_db_of(whole, codec.spectrogram)
            errors.append(estimated_level_db(mean, codec.checkpoint.model, codec.spectrogram) - true_db)
            held = []
    return errors


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_text(codec: Codec, long: Latents) -> str:
    """Streams all of it, and says what memory that took beyond what was there."""
    before, blocks = peak_mb(), codec.stream(long, quality="draft")
    made = sum(block.shape[1] for block in itertools.islice(blocks, 5))
    early = peak_mb()
    made += sum(block.shape[1] for block in blocks)
    return (
        f"{made / long.sample_rate / 60:.0f} minutes in blocks of {BLOCK_SECONDS:g} s raise the process's peak memory "
        f"from {before:.0f} MB by {early - before:.0f} in the first minute and by {peak_mb() - early:.0f} after it."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, default=[EXAMPLES / f"{name}.flac" for name in CLIPS])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--level", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=60, help="at least 1 (default 60)")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = audiovae.load(arguments.checkpoint, device="cpu")
    clip = codec.encode(joined(arguments.clips, codec.config.spectrogram.sample_rate))
    long = repeated(clip, 60 * arguments.minutes, codec)
    short = repeated(clip, SHORT_SECONDS, codec)
    memory = memory_text(codec, long)  # first: peaks only rise
    heads = ["quality", "block, s", "first block, s of CPU ↓", "× real time ↑"]
    heads += ["spectral convergence, dB ↓", "at joins, dB ↓"]
    texts = [
        f"{arguments.minutes:g} minutes of {'stereo' if clip.channels == 2 else 'mono'}, one thread:",
        table(heads, rows(codec, short, long)),
        memory,
    ]
    if arguments.level:
        errors = level_errors_db(codec, arguments.level)
        rms = math.sqrt(sum(error**2 for error in errors) / len(errors))
        largest = max(map(abs, errors))
        texts.append(
            f"The level of {len(errors)} recordings of five minutes is estimated to {rms:.2f} dB (RMS), "
            f"{largest:.2f} dB at most."
        )
    text = "\n\n".join(texts)
    print(text)
    if arguments.write:
        write_block(arguments.write, "streaming", text)


if __name__ == "__main__":
    main()
