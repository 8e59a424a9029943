"""What becomes of noise and high frequencies: whether they buzz at the frame rate, and how near they are when looked at
in short windows.

    python tests/benchmarks/noise.py [CLIP...] [--write tests/benchmarks/synthesis.md]

Bands of the clips (by default those of data/examples) go through band inversion and Griffin-Lim, with the unevenness
of noise (``unevenness.py``) and without it. *Modulation* is how deep the power of a range of frequencies is modulated
at the frame rate: 0 not at all, 2 as in a train of pulses. The short-window distance is the log-spectral distance in
windows of 256 samples; those of the front end, of 2048, hardly see it. Means over clips; and, for control, the same of
white noise, beside other white noise.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

import torch
from document import table, write_block
from torch import Tensor

import audiovae
from audiovae.codec import ITERATIONS, Codec
from audiovae.evaluation.clips import Clip, load_clip
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.evaluation.reconstruction import log_mel_error_db, short_window_distance_db
from audiovae.griffin_lim import griffin_lim

EXAMPLES = Path(__file__).parents[2] / "data" / "examples"
RANGES_HZ = ((3000, 6000), (6000, 10000), (10000, 16000))
HEARD = 1e-6
"""Of the loudest moment's power."""


def modulation(sound: Tensor, hop_length: int, sample_rate: int, low_hz: int, high_hz: int) -> float:
    """Depth at the frame rate of the power between two frequencies."""
    spectrum = torch.fft.rfft(sound)
    hz = torch.fft.rfftfreq(len(sound), 1 / sample_rate)
    power = torch.fft.irfft(torch.where((hz >= low_hz) & (hz < high_hz), spectrum, 0), n=len(sound)).square()
    hops = power[: len(power) // hop_length * hop_length].view(-1, hop_length)
    level = hops.mean(1)
    heard = level > HEARD * level.max()
    in_hop = (hops[heard] / level[heard, None]).mean(0)  # all count alike, lest one stroke is all there is
    return float(2 * torch.fft.rfft(in_hop)[1].abs() / in_hop.sum())


def sounds_of(codec: Codec, waveform: Tensor) -> dict[str, Tensor]:
    """A clip, and what is made of its bands, or of its own magnitudes, by each way."""
    hop, spectrogram = codec.config.spectrogram.hop_length, codec.spectrogram
    inverted, true = spectrogram.magnitude(spectrogram(waveform[None])[0]), stft_magnitude(waveform)

    def made(quality: str) -> Tensor:
        return griffin_lim(inverted, hop_length=hop, iterations=ITERATIONS[quality], bank=spectrogram.bank)

    sounds = {"the clip itself": waveform}
    sounds |= {quality: made(quality) for quality in ITERATIONS}
    with patch("audiovae.griffin_lim.uneven", lambda magnitude, *_, **__: magnitude):
        sounds |= {f"{quality}, bins alike": made(quality) for quality in ITERATIONS}
    return sounds | {"true magnitudes": griffin_lim(true, hop_length=hop, iterations=ITERATIONS["standard"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.flac")))
    parser.add_argument(
        "--write", type=Path, help="document whose blocks 'noise' and 'noise-control' the tables go into"
    )
    arguments = parser.parse_args()
    codec = audiovae.load(device="cpu")
    clips = (load_clip(Clip(path, path.stem, ""), codec).waveform for path in arguments.clips)
    tables = {"noise": measured(codec, clips), "noise-control": measured(codec, [white(0)], {"other noise": white(1)})}
    for name, text in tables.items():
        print(text)
        if arguments.write:
            write_block(arguments.write, name, text)


def white(seed: int) -> Tensor:
    """Ten seconds of noise."""
    return 0.1 * torch.randn(1, 441_000, generator=torch.Generator().manual_seed(seed))


def measured(codec: Codec, clips: Iterable[Tensor], others: Mapping[str, Tensor] | None = None) -> str:
    """A table of what is made of the clips, and of other sounds beside it."""
    rate, hop = codec.config.spectrogram.sample_rate, codec.config.spectrogram.hop_length
    found: dict[str, list[list[float]]] = {}
    for clip in clips:
        target = clip[:, : clip.shape[1] // hop * hop]
        sounds = sounds_of(codec, target) | {way: sound[:, : target.shape[1]] for way, sound in (others or {}).items()}
        for way, sound in sounds.items():
            depths = [modulation(sound[0], hop, rate, *limits) for limits in RANGES_HZ]
            distances = [short_window_distance_db(target, sound), log_mel_error_db(target, sound, rate)]
            found.setdefault(way, []).append(depths + distances)
    rows = [[way, *(f"{fmean(column):.2f}" for column in zip(*some, strict=True))] for way, some in found.items()]
    heads = [f"modulation at {low / 1000:g} to {high / 1000:g} kHz ↓" for low, high in RANGES_HZ]
    return table(["way", *heads, "short-window distance, dB ↓", "log-mel error, dB ↓"], rows)


if __name__ == "__main__":
    main()
