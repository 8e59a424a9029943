"""A small net trained on a latent dataset: it learns to tell the next latent frame, and goes on where a clip ends."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

import audiovae
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import encode_dataset, local_encoder
from audiovae.latent_dataset.torch_dataset import LatentDataset
from audiovae.plots import path_picture

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
FRAMES = 24  # of a crop: 2 s


class NextFrame(nn.Module):
    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.memory = nn.GRU(latent_channels, 128, batch_first=True)
        self.head = nn.Linear(128, latent_channels)

    def forward(self, frames: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, state = self.memory(frames, state)
        return frames + self.head(hidden), state


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
    net = NextFrame(codec.config.model.latent_channels)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    sampler = RandomSampler(crops, replacement=True, num_samples=16 * arguments.steps)
    for crop in DataLoader(crops, batch_size=16, sampler=sampler):
        frames = crop.mT
        loss = (net(frames[:, :-1])[0] - frames[:, 1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"squared error at the end: {loss.item():.3f}")

    clip = crops.latents(crops.index_of("guitar.flac"))
    with torch.no_grad():
        said, state = net(clip.mean.mT)
        ahead = [said[:, -1:]]
        while len(ahead) < 2 * FRAMES:
            said, state = net(ahead[-1], state)
            ahead.append(said)
    mean = torch.cat([clip.mean, *(frame.mT for frame in ahead)], dim=2)
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
