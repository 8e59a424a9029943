"""New sounds: draws of the learnt prior, of its mixture alone, of the control N(0, I), and variations of a guitar."""

import argparse
from dataclasses import replace
from pathlib import Path

import audiovae
from audiovae.model.prior import Prior
from audiovae.plots import path_picture

GUITAR = Path(__file__).parents[1] / "data" / "examples" / "guitar.flac"
COUNT = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("04_generate"))
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    codec = audiovae.load(arguments.checkpoint)
    control, mixture = (
        replace(codec, checkpoint=replace(codec.checkpoint, prior=prior))
        for prior in (Prior.standard(codec.config.model.latent_channels), codec.prior.without_flow())
    )
    guitar = codec.encode(GUITAR)
    sounds = {}
    for index in range(COUNT):
        sounds[f"prior {index}"] = audiovae.generate(codec, index=index)
        sounds[f"control {index}"] = audiovae.generate(control, index=index)
        sounds[f"mixture {index}"] = audiovae.generate(mixture, index=index)
        amount = (index + 1) / COUNT
        sounds[f"guitar {amount:.2f}"] = audiovae.generate(codec, like=guitar, amount=amount)
    sounds = dict(sorted(sounds.items()))
    for name, latents in sounds.items():
        codec.decode(latents).save(arguments.out / f"{name.replace(' ', '_')}.wav", force=True)
    path_picture(
        [codec.spectrogram_of(latents)[0] for latents in sounds.values()],
        list(sounds),
        arguments.out / "generated.png",
        config=codec.config.spectrogram,
        title="N(0, I) frame by frame, variations of a guitar, the mixture alone, the prior",
        seconds=guitar.duration_seconds,
        force=True,
    )
    print(f"{arguments.out}: {len(sounds)} sounds")


if __name__ == "__main__":
    main()
