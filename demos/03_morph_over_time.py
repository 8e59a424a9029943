"""One sound that turns from an orchestra into a concerto, classical music both, in stereo."""

import argparse
from pathlib import Path

import audiovae
from audiovae.curve import Curve
from audiovae.interpolation import interpolate_curve
from audiovae.plots import path_picture

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("03_morph_over_time"))
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    codec = audiovae.load(arguments.checkpoint)
    orchestra = codec.encode(EXAMPLES / "orchestra_grieg.flac")
    concerto = codec.encode(EXAMPLES / "concerto_bach.flac")
    # The orchestra alone for the first fifth, the concerto alone for the last.
    curve = Curve.parse("0.2:0,0.8:1")
    morph = interpolate_curve(orchestra, concerto, curve, codec=codec)
    codec.decode(morph).save(arguments.out / "morph.wav", force=True)
    path_picture(
        [codec.spectrogram_of(latents)[0] for latents in (orchestra, morph, concerto)],
        ["orchestra", "morph", "concerto"],
        arguments.out / "morph.png",
        config=codec.config.spectrogram,
        title=f"Grieg to Bach along {curve}",
        seconds=morph.duration_seconds,
        force=True,
    )
    print(f"{arguments.out}: {morph.duration_seconds:.1f} s, {morph.channels} channels")


if __name__ == "__main__":
    main()
