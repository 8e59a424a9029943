"""Nine steps from a music box to a piano; beside the middle one a crossfade of latents and the plain mix."""

import argparse
from pathlib import Path

import audiovae
from audiovae.plots import path_picture

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
STEPS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("02_interpolate"))
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    codec = audiovae.load(arguments.checkpoint)
    clips = [audiovae.Audio.load(EXAMPLES / name) for name in ("music_box.flac", "piano_bach.flac")]
    a, b = (codec.encode(clip) for clip in clips)
    weights = [step / (STEPS - 1) for step in range(STEPS)]
    steps = [audiovae.interpolate(a, b, weight=weight, codec=codec) for weight in weights]
    for weight, latents in zip(weights, steps, strict=True):
        codec.decode(latents).save(arguments.out / f"{weight:.3f}.wav", force=True)

    crossfade = audiovae.interpolate(a, b, weight=0.5, align="none", codec=codec)
    codec.decode(crossfade).save(arguments.out / "crossfade.wav", force=True)
    samples = min(clip.samples for clip in clips)
    mix = 0.5 * (clips[0].waveform[:, :samples] + clips[1].waveform[:, :samples])
    audiovae.Audio(mix, clips[0].sample_rate).save(arguments.out / "mix.wav", force=True)
    path_picture(
        [codec.spectrogram_of(latents)[0] for latents in steps],
        [f"{weight:.3f}" for weight in weights],
        arguments.out / "path.png",
        config=codec.config.spectrogram,
        title="music box to piano",
        seconds=a.duration_seconds,
        force=True,
    )
    print(f"{arguments.out}: {STEPS} steps; compare 0.500.wav with crossfade.wav and mix.wav")


if __name__ == "__main__":
    main()
