"""Makes the weights in the package of a finished training run: half precision, with their licence.

python data/weights.py RUN [--out audiovae/assets/bundled.safetensors] [--license MIT]
"""

import argparse
from dataclasses import replace
from pathlib import Path

from audiovae.checkpoint import load_checkpoint, save_checkpoint
from audiovae.codec import BUNDLED_CHECKPOINT
from corpus import errors_told


@errors_told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=BUNDLED_CHECKPOINT)
    parser.add_argument("--license", default="MIT")
    arguments = parser.parse_args()
    trained = load_checkpoint(arguments.run / "model.safetensors")
    facts = replace(trained.facts, license=arguments.license)
    save_checkpoint(arguments.out, model=trained.model, prior=trained.prior, facts=facts, half=True, force=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 2**20:.1f} MiB, step {facts.step}, {facts.data}")


if __name__ == "__main__":
    main()
