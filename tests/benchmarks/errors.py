"""Where a model's errors lie: in bands, and in mels from low to high, before any phase is made up.

    python tests/benchmarks/errors.py FOLDER... [--clips 12] [--compare NAME=FILE] [--write audiovae/assets/README.md]

It measures the bundled model, PCA with as many values, and others, on clips spread evenly over each folder: of each
clip the first ten seconds, its channels averaged. The errors are mean absolute ones in dB: of the bands, of 128 mels of
the magnitudes that have those bands, down to 80 dB below their peak, and of each quarter of these mels.
"""

import argparse
from pathlib import Path

import torch
from document import table, write_block
from torch import Tensor

import audiovae
from audiovae.codec import Codec
from audiovae.evaluation.baselines import pca_codec
from audiovae.evaluation.clips import Clip, find_clips, load_clip
from audiovae.evaluation.log_mel import log_mel_db, with_floor
from audiovae.spectrogram import mean_error_db

QUARTERS = 4
HEADS = ["audio", "way", "bands", "mels", "lowest quarter", "second", "third", "highest quarter"]


@torch.inference_mode()
def errors_db(codec: Codec, clip: Clip) -> Tensor:
    """Of the bands, of all mels, and of each quarter of them."""
    config, model = codec.config, codec.checkpoint.model
    target = codec.spectrogram(load_clip(clip, codec).waveform[None])
    target = target[..., : target.shape[-1] // config.model.time_stride * config.model.time_stride]
    made = model.decode(model.encode(target).mode())
    levels = [
        log_mel_db(codec.spectrogram.magnitude(one)[0, 0], config.spectrogram.sample_rate) for one in (made, target)
    ]
    made_db, true_db = (with_floor(level, levels[1]) for level in levels)
    of_mels = (made_db - true_db).abs().mean(1)
    in_bands = mean_error_db(made, target, config.spectrogram)
    return torch.cat([in_bands[None], of_mels.mean()[None], of_mels.view(QUARTERS, -1).mean(1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--compare", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    bundled = audiovae.load(device="cpu")
    pca = pca_codec(bundled)
    assert pca is not None
    ways = {"the bundled model": bundled, "PCA": pca}
    for name, _, file in (one.partition("=") for one in arguments.compare):
        ways[name] = audiovae.load(file, device="cpu")
    rows = []
    for folder in arguments.folders:
        clips = find_clips([folder], limit=arguments.clips)
        for name, codec in ways.items():
            means = torch.stack([errors_db(codec, clip) for clip in clips]).mean(0)
            rows.append(["/".join(folder.parts[-2:]), name, *(f"{error:.3f}" for error in means.tolist())])
    text = table(HEADS, rows)
    print(text)
    if arguments.write:
        write_block(arguments.write, "errors", text)


if __name__ == "__main__":
    main()
