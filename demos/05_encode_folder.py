"""All example clips to a latent dataset, and a map of them in two dimensions."""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import audiovae
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import encode_dataset, local_encoder
from audiovae.latent_dataset.torch_dataset import LatentDataset

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
SIZE, MARGIN = 720, 90  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("05_encode_folder"))
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()

    codec = audiovae.load(arguments.checkpoint)
    settings = settings_of(codec)
    # What `audiovae encode data/examples --out …` does. Run it again: nothing is left to do.
    encode_dataset(find_recordings([EXAMPLES]), arguments.out / "latents", settings, local_encoder(codec, settings))
    dataset = LatentDataset(arguments.out / "latents")
    # One point a clip: the mean over its channels and frames.
    names = [Path(source).stem for source in dataset.facts["source"].to_pylist()]
    points = {name: dataset[index].mean(dim=(0, 2)) for index, name in enumerate(names)}
    draw_map(points, arguments.out / "map.png")
    print(f"{arguments.out}: {len(points)} clips, {codec.config.latent_rate:.2f} latent frames a second")


def draw_map(points: dict[str, torch.Tensor], path: Path) -> None:
    """The two directions in which the clips differ most: PCA, once more."""
    matrix = torch.stack(list(points.values()))
    centred = matrix - matrix.mean(0)
    places = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    places = (places - places.amin(0)) / (places.amax(0) - places.amin(0)).clamp_min(1e-9)
    picture = Image.new("RGB", (SIZE, SIZE), (18, 18, 24))
    draw = ImageDraw.Draw(picture)
    for name, (x, y) in zip(points, (places * (SIZE - 2 * MARGIN) + MARGIN).tolist(), strict=True):
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=(253, 150, 104))
        draw.text((x, y + 10), name, fill=(235, 235, 240), anchor="ma")
    picture.save(path)


if __name__ == "__main__":
    main()
