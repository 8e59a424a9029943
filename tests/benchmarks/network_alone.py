"""Writes a model without principal components, for ``audiovae train --from``, to find out what these are worth.

python tests/benchmarks/network_alone.py base alone.safetensors
"""

import argparse
from importlib.metadata import version
from pathlib import Path

import torch

from audiovae.checkpoint import Facts, save_checkpoint
from audiovae.config import Config
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.training.run import find_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    config = Config.from_toml(find_config(arguments.config))
    torch.manual_seed(config.training.seed)
    facts = Facts(version=version("audiovae"), data="nothing yet")
    save_checkpoint(
        arguments.out, model=VAE(config), prior=Prior.standard(config.model.latent_channels), facts=facts, force=True
    )


if __name__ == "__main__":
    main()
