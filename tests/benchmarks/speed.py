"""How fast the codec is, in seconds of audio a second, and where the time goes.

    python tests/benchmarks/speed.py [CLIP...] [--checkpoint FILE] [--write README.md]

Ten seconds of mono at 44.1 kHz (the clips joined, by default those of data/examples), in memory; the median of 7 runs
after a warm-up, wall time, on one thread and on all cores. Run it on a quiet machine.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchaudio
from document import table, write_block

import audiovae
from audiovae.audio import Audio
from audiovae.codec import ITERATIONS, Codec
from audiovae.griffin_lim import griffin_lim

EXAMPLES = Path(__file__).parents[2] / "data" / "examples"
SECONDS = 10


def times_real_time(work: Callable[[], object], runs: int = 7) -> float:
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return SECONDS / statistics.median(seconds)


def ten_seconds(paths: list[Path], rate: int) -> Audio:
    clips = [Audio.load(path).resample(rate).waveform.mean(0, keepdim=True) for path in paths]
    joined = torch.cat(clips, dim=1)
    return Audio(joined.repeat(1, -(-SECONDS * rate // joined.shape[1]))[:, : SECONDS * rate], rate)


def stages(codec: Codec, clip: Audio) -> dict[str, Callable[[], object]]:
    """The steps of the whole way, each on its own."""
    model, config = codec.checkpoint.model, codec.config
    latents = codec.encode(clip)
    missing = latents.latent_frames * config.latent_hop_length - clip.samples
    waveform = torch.nn.functional.pad(clip.waveform, (0, missing))[None]
    spectrogram = codec.spectrogram(waveform)[..., : config.model.time_stride * latents.latent_frames]
    magnitude = codec.spectrogram.magnitude(spectrogram)[0]
    hop, bank = config.spectrogram.hop_length, codec.spectrogram.bank

    window = torch.hann_window(2048)
    torchaudios = torchaudio.transforms.GriffinLim(2048, n_iter=32, hop_length=hop, power=1.0, momentum=0.99)

    def phase(quality: str) -> Callable[[], object]:
        return lambda: griffin_lim(magnitude, hop_length=hop, iterations=ITERATIONS[quality], bank=bank)

    return {
        "**encode**": lambda: codec.encode(clip),
        "spectrogram": lambda: codec.spectrogram(waveform),
        "(torch.stft alone)": lambda: torch.stft(waveform[0], 2048, 512, window=window, return_complex=True),
        "encoder": lambda: model.encode(spectrogram),
        "**decode, draft**": lambda: codec.decode(latents, quality="draft"),
        "**decode, standard**": lambda: codec.decode(latents),
        "**decode, best**": lambda: codec.decode(latents, quality="best"),
        "decoder": lambda: model.decode(latents.mean),
        "band inversion": lambda: codec.spectrogram.magnitude(spectrogram),
        "phase, draft": phase("draft"),
        "phase, standard": phase("standard"),
        "phase, best": phase("best"),
        "(torchaudio GriffinLim, 32)": lambda: torchaudios(magnitude),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.flac"))[:4])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    codec = audiovae.load(arguments.checkpoint, device="cpu")
    clip = ten_seconds(arguments.clips, codec.config.spectrogram.sample_rate)
    columns = {}
    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            columns[threads] = {name: times_real_time(work) for name, work in stages(codec, clip).items()}
    header = ["× real time", *(f"{threads} thread{'s' if threads > 1 else ''}" for threads in columns)]
    names = next(iter(columns.values()))
    text = table(header, [[name, *(f"{column[name]:.0f}" for column in columns.values())] for name in names])
    print(text)
    if arguments.write:
        write_block(arguments.write, "speed", text)


if __name__ == "__main__":
    main()
