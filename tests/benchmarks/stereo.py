"""Stereo: ways to find the channels' phases, by what becomes of the image and of the mono sum.

    python tests/benchmarks/stereo.py [CLIP...] [--cut FOLDER --cache ~/.cache/audiovae-debian] [--write FILE]

--cut makes eight clips of 8 s, from near mono to unrelated channels, of tracks that are in no training corpus of
data/ (two of them, menu and battle, turned out to be there under other names), and measures those; by default the
stereo clips of data/examples are. Magnitudes are the true ones, those of the true bands, or the model's; the phases
come from Griffin-Lim at the default quality. Means over clips.

The mono sum's error is the log-mel error of (L + R) / 2 against the target's. The comb error is by how much it exceeds
the error that the same synthesis makes with a mono recording of (L + R) / 2. *Middle and side* treats them as two mono
recordings, and adds the results.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import soundfile
import torch
from document import table, write_block
from torch import Tensor

import audiovae
from audiovae.audio import Audio
from audiovae.bank import Bank
from audiovae.codec import ITERATIONS, Codec
from audiovae.decoded_level import level_db_of
from audiovae.evaluation import stereo
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.evaluation.reconstruction import log_mel_error_db, spectral_convergence_db
from audiovae.griffin_lim import griffin_lim
from audiovae.level import level_db

DATA = Path(__file__).parents[2] / "data"
EXAMPLES = ("ambient", "concerto_bach", "orchestra_grieg")
QUALITY = "standard"


class Cut(NamedTuple):
    """Eight seconds of a track of a Debian package."""

    name: str
    package: str
    wanted: str
    start_seconds: float


CUTS = (
    Cut("8-bit", "0ad-data", r"/music/0_8Bit_Bonus_Track\.ogg$", 46.93),
    Cut("golf", "hedgewars-data", r"/Music/Golf\.ogg$", 113.0),
    Cut("ambient", "naev-data", r"/music/ambiphonic\.ogg$", 44.83),
    Cut("menu", "widelands-data", r"/music/menu\.ogg$", 23.39),
    Cut("grieg", "unknown-horizons", r"/music/.*Peer Gynt.*\.ogg$", 76.71),
    Cut("bach", "gamine-data", r"/sounds/.*Brandenburg.*\.ogg$", 4.0),
    Cut("battle", "flare-game", r"/music/battle_theme\.ogg$", 109.08),
    Cut("fightmare", "ufoai-music", r"/AlexFightmare\.ogg$", 236.18),
)


def cut_clips(folder: Path, cache: Path, seconds: float = 8.0) -> list[Path]:
    """Cuts those of the clips that aren't there."""
    sys.path.insert(0, str(DATA))
    import debian

    folder.mkdir(parents=True, exist_ok=True)
    for cut in CUTS:
        if (folder / f"{cut.name}.flac").exists():
            continue
        track = next(debian.files(debian.unpack(cut.package, cut.wanted, cache), cut.wanted))
        with soundfile.SoundFile(track) as file:
            file.seek(round(cut.start_seconds * file.samplerate))
            audio = file.read(round(seconds * file.samplerate), always_2d=True)
            soundfile.write(folder / f"{cut.name}.flac", audio, file.samplerate, subtype="PCM_24")
    return [folder / f"{cut.name}.flac" for cut in CUTS]


Magnitudes = Callable[[Tensor], Tensor]


def sources(codec: Codec) -> dict[str, Magnitudes]:
    """Where the magnitudes of a waveform come from."""
    rate, model_db = codec.config.spectrogram.sample_rate, codec.config.spectrogram.level_db

    def bands(waveform: Tensor) -> Tensor:
        gain = 10 ** ((model_db - level_db(waveform, rate)) / 20)
        return codec.spectrogram.magnitude(codec.spectrogram(gain * waveform[:, None])[:, 0]) / gain

    def model(waveform: Tensor) -> Tensor:
        latents = codec.encode(Audio(waveform, rate))
        magnitude = codec.spectrogram.magnitude(codec.spectrogram_of(latents))
        return 10 ** ((latents.level_db - level_db_of([magnitude], codec.spectrogram)) / 20) * magnitude

    def heard(magnitudes: Magnitudes) -> Magnitudes:
        frames = codec.config.spectrogram.hop_length
        return lambda waveform: (
            magnitudes(waveform)[..., : 1 + waveform.shape[1] // frames]
            if waveform.any()
            else torch.zeros_like(stft_magnitude(waveform))
        )

    return {"true magnitudes": stft_magnitude, "true bands": heard(bands), "the model": heard(model)}


def ways(magnitudes: Magnitudes, hop: int, bank: Bank | None) -> dict[str, Callable[[Tensor], Tensor]]:
    """From a stereo waveform, by its magnitudes alone, to another."""
    iterations = ITERATIONS[QUALITY]

    def found(magnitude: Tensor) -> Tensor:
        return griffin_lim(magnitude, hop_length=hop, iterations=iterations, bank=bank)

    def shared(waveform: Tensor) -> Tensor:
        magnitude = magnitudes(waveform)
        window = torch.hann_window(2 * (magnitude.shape[1] - 1))
        mean = found(magnitude.mean(0, keepdim=True))[0]
        spectrum = torch.stft(mean, len(window), hop, window=window, pad_mode="constant", return_complex=True)
        return griffin_lim(magnitude, hop_length=hop, iterations=0, phase=spectrum.angle(), bank=bank)

    def alone(waveform: Tensor) -> Tensor:
        return torch.cat([found(channel[None]) for channel in magnitudes(waveform)])

    def middle_and_side(waveform: Tensor) -> Tensor:
        left, right = waveform.split(1)
        middle, side = (found(magnitudes(part)) for part in ((left + right) / 2, (left - right) / 2))
        return torch.cat([middle + side, middle - side])

    return {
        "**as `decode`**": lambda waveform: found(magnitudes(waveform)),
        "one phase for both": shared,
        "each channel alone": alone,
        "middle and side": middle_and_side,
    }


def measures(target: Tensor, output: Tensor, mono_output: Tensor, rate: int) -> list[float]:
    length = output.shape[1]
    target = target[:, :length]
    mono, made = (waveform.mean(0, keepdim=True) for waveform in (target, output))
    return [
        log_mel_error_db(target, output, rate),
        fmean(spectral_convergence_db(target[[one]], output[[one]]) for one in range(2)),
        stereo.coherence_error(target, output, rate),
        stereo.coherence_shift(target, output, rate),
        stereo.level_difference_error_db(target, output, rate),
        stereo.side_level_error_db(target, output),
        log_mel_error_db(mono, made, rate),
        stereo.comb_error_db(target, output, mono_output, rate),
    ]


def rows(codec: Codec, clips: list[Tensor]) -> list[list[str]]:
    """A line for each source of magnitudes and way to the phases."""
    config, lines = codec.config.spectrogram, []
    for source, magnitudes in sources(codec).items():
        bank = None if magnitudes is stft_magnitude else codec.spectrogram.bank
        mono = ways(magnitudes, config.hop_length, bank)["**as `decode`**"]
        monos = [mono(clip.mean(0, keepdim=True)) for clip in clips]
        for way, work in ways(magnitudes, config.hop_length, bank).items():
            pairs = zip(clips, monos, strict=True)
            values = [measures(clip, work(clip), mono_output, config.sample_rate) for clip, mono_output in pairs]
            means = [fmean(one for one in column if not math.isnan(one)) for column in zip(*values, strict=True)]
            lines.append([source, way, *(f"{mean:.2f}" for mean in means)])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--cut", type=Path, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/audiovae-debian").expanduser())
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = audiovae.load(arguments.checkpoint, device="cpu")
    paths = cut_clips(arguments.cut, arguments.cache) if arguments.cut else arguments.clips
    paths = paths or [DATA / "examples" / f"{name}.flac" for name in EXAMPLES]
    rate = codec.config.spectrogram.sample_rate
    clips = [Audio.load(path).resample(rate).waveform for path in paths]
    heads = ["magnitudes", "phases", "log-mel error, dB ↓", "spectral convergence, dB ↓", "coherence error ↓"]
    heads += [
        "coherence shift",
        "level difference error, dB ↓",
        "side level, dB",
        "mono sum error, dB ↓",
        "comb error, dB ↓",
    ]
    text = f"{len(clips)} stereo clips, quality {QUALITY}:\n\n{table(heads, rows(codec, clips))}"
    print(text)
    if arguments.write:
        write_block(arguments.write, "stereo", text)


if __name__ == "__main__":
    main()
