"""A clip through the model and back, beside the original."""

import argparse
from pathlib import Path

import audiovae
from audiovae.plots import path_picture

CLIP = Path(__file__).parents[1] / "data" / "examples" / "orchestra_grieg.flac"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("01_reconstruct"))
    parser.add_argument("--checkpoint")
    parser.add_argument("--clip", type=Path, default=CLIP)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    codec = audiovae.load(arguments.checkpoint)
    original = audiovae.Audio.load(arguments.clip)
    latents = codec.encode(original)
    reconstruction = codec.decode(latents)

    original.save(arguments.out / "original.wav", force=True)
    reconstruction.save(arguments.out / "reconstruction.wav", force=True)
    samples = original.resample(codec.config.spectrogram.sample_rate).waveform[:1]
    path_picture(
        [codec.spectrogram(samples[None].to(codec.device))[0, 0].cpu(), codec.spectrogram_of(latents)[0]],
        ["original", "decoded"],
        arguments.out / "reconstruction.png",
        config=codec.config.spectrogram,
        title=arguments.clip.name,
        seconds=original.duration_seconds,
        force=True,
    )
    numbers = latents.mean.numel() / original.duration_seconds
    print(f"{arguments.out}: {original.channels} channels at {numbers:.0f} latent values a second")


if __name__ == "__main__":
    main()
