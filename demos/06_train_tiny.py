"""A tiny model trained on the example clips, on a CPU, in about a minute: the whole way from folder to sound."""

import argparse
from pathlib import Path

import audiovae
from audiovae.plots import path_picture
from audiovae.training.run import Watch, new_run, train

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("06_train_tiny"))
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    settings = [f"training.steps={arguments.steps}", "training.validate_every=100000"]
    run = new_run("tiny", settings, data=EXAMPLES, folder=arguments.out / "run", force=True)
    watch = Watch(stepped=lambda progress: print(f"step {progress.step}: {progress.error_db:.1f} dB off"))
    train(run, device="cpu", watch=watch)

    codec = audiovae.load(run.folder / "model.safetensors", device="cpu")
    clip = audiovae.Audio.load(EXAMPLES / "folk_founders.flac")
    latents = codec.encode(clip)
    codec.decode(latents).save(arguments.out / "reconstruction.wav", force=True)
    path_picture(
        [codec.spectrogram_of(latents)[0]],
        ["reconstruction"],
        arguments.out / "reconstruction.png",
        config=codec.config.spectrogram,
        title=f"after {arguments.steps} steps of a tiny model",
        seconds=clip.duration_seconds,
        force=True,
    )
    print(f"{arguments.out}: what {latents.mean.shape[1]} numbers a latent frame keep of {clip.source}")


if __name__ == "__main__":
    main()
