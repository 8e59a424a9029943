"""A small net trained on a latent dataset: it learns to predict the next latent frame, and continues a clip."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

import audiovae
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import encode_dataset, local_encoder
from audiovae.latent_dataset.torch_dataset import LatentDataset
from audiovae.plots import path_picture

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
FRAMES, WIDTH = 24, 128  # latent frames of a crop (1.1 s), and how many numbers the net remembers of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("07_train_on_latents"))
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    codec = audiovae.load(device="cpu")
    settings, folder = settings_of(codec), arguments.out / "latents"
    encode_dataset(find_recordings([EXAMPLES]), folder, settings, local_encoder(codec, settings))
    crops = LatentDataset(folder, crop_latent_frames=FRAMES)
    latent_channels = codec.config.model.latent_channels
    memory, step = nn.GRU(latent_channels, WIDTH, batch_first=True), nn.Linear(WIDTH, latent_channels)
    optimizer = torch.optim.Adam([*memory.parameters(), *step.parameters()], lr=3e-3)
    sampler = RandomSampler(crops, replacement=True, num_samples=16 * arguments.steps)
    for crop in DataLoader(crops, batch_size=16, sampler=sampler):
        frames = crop.mT
        loss = (step(memory(frames[:, :-1])[0]) - frames.diff(dim=1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"squared error at the end: {loss.item():.3f}")

    clip = crops.latents(crops.index_of("guitar.flac"))
    frames, state = clip.mean.mT, None
    with torch.no_grad():
        for _ in range(2 * FRAMES):
            hidden, state = memory(frames if state is None else frames[:, -1:], state)
            frames = torch.cat([frames, frames[:, -1:] + step(hidden[:, -1:])], dim=1)
    mean = frames.mT
    samples = (mean.shape[2] - 1) * codec.config.latent_hop_length
    longer = replace(clip, mean=mean, logvar=None, samples=samples, sample_rate=settings.sample_rate)
    codec.save(longer, arguments.out / "continued.wav", force=True)
    picture, config = arguments.out / "continued.png", codec.config.spectrogram
    title, seconds = f"a guitar, continued after {clip.duration_seconds:.0f} s", longer.duration_seconds
    path_picture(
        [codec.spectrogram_of(longer)[0]], [""], picture, config=config, title=title, seconds=seconds, force=True
    )


if __name__ == "__main__":
    main()
