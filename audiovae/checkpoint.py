"""One safetensors file holds a model: weights and prior as tensors, config and facts in the header. No pickle."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiovae.config import Config
from audiovae.errors import InputError, in_one_line
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.tensor_file import format_version, read_tensors, with_prefix, write_tensors

FORMAT_NAME, FORMAT_VERSION = "audiovae", 4
"""Format 1 held models of log spectrograms; format 2, components that were their own analysis, and Gaussian priors;
format 3, flows that didn't know how strong noise is, and mixtures of more directions."""


TUNED_ON, PRIOR_OF = "; tuned on ", "; prior: "
"""Between the data that a model was trained on, those that it was tuned on, and those of its prior, if they are others.
"""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of itself."""

    version: str = ""
    """audiovae's version that wrote it."""
    step: int = 0
    """Optimizer steps it was trained for."""
    data: str = ""
    """What it was trained on."""
    license: str = ""
    """Under which its weights may be used."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Measured on held-out audio."""

    @property
    def model_data(self) -> str:
        """What the model was trained on, and not its prior, where that differs."""
        return self.data.partition(PRIOR_OF)[0]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model."""

    config: Config
    model: VAE
    prior: Prior
    facts: Facts
    fingerprint: str
    """Sixteen hexadecimal digits that change with any weight or setting; latents carry it."""
    source: str
    """The file it was read from."""


def save_checkpoint(
    path: Path | str, *, model: VAE, prior: Prior, facts: Facts, half: bool = False, force: bool = False
) -> None:
    """Writes a model whole or not at all; ``half`` stores its weights and prior as float16.

    Raises InputError if the file exists and ``force`` is off, or the disk refuses.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"prior.{name}": tensor for name, tensor in prior.state_dict().items()}
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    header = {
        "format": f"{FORMAT_NAME}/{FORMAT_VERSION}",
        "config": model.config.model_dump_json(),
        "facts": json.dumps(asdict(facts)),
    }
    header["sha256"] = _checksum(header, tensors)
    write_tensors(Path(path), tensors, header, force=force)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Reads a model: header, config, model, strict weights. Weights become float32.

    Raises InputError, in one line that names the file, for anything that isn't exactly such a file.
    """
    path = Path(path)
    tensors, header = read_tensors(path, kind="checkpoint")
    _check_format(header, path)
    if _header_text(header, "sha256", path) != _checksum(header, tensors):
        raise InputError(f"{path}: damaged or tampered with: its content doesn't match its checksum")
    config = Config.from_json(_header_text(header, "config", path), path)
    facts = _facts(_header_text(header, "facts", path), path)
    weights, fitted = with_prefix(tensors, "model."), with_prefix(tensors, "prior.")
    latent_channels = config.model.latent_channels
    with torch.device("meta"):
        model, prior = VAE(config), Prior.standard(latent_channels)
        if any(name.startswith("flow.") for name in fitted):
            prior = prior.with_flow()
    _check_tensors(weights, model.state_dict(), path)
    _check_tensors(fitted, prior.state_dict(), path)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    prior.load_state_dict({name: tensor.float() for name, tensor in fitted.items()}, assign=True)
    model.eval().requires_grad_(False)
    prior.eval().requires_grad_(False)
    return Checkpoint(config, model, prior, facts, _fingerprint(config, tensors), str(path))


def _check_format(header: dict[str, str], path: Path) -> None:
    version = format_version(header, FORMAT_NAME)
    if version is None:
        raise InputError(f"{path}: a safetensors file, but not a checkpoint of audiovae")
    if version < FORMAT_VERSION:
        raise InputError(f"{path}: made by an older audiovae, whose models this one doesn't read: train it again")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: made by a newer audiovae: format {FORMAT_NAME}/{version}, "
            f"this one reads up to {FORMAT_NAME}/{FORMAT_VERSION}"
        )


def _header_text(header: dict[str, str], key: str, path: Path) -> str:
    if key not in header:
        raise InputError(f"{path}: its header has no {key}")
    return header[key]


def _facts(text: str, path: Path) -> Facts:
    try:
        values: dict[str, Any] = json.loads(text)
        return Facts(
            version=str(values["version"]),
            step=int(values["step"]),
            data=str(values["data"]),
            license=str(values["license"]),
            metrics={str(name): float(value) for name, value in values["metrics"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: its header's facts can't be read: {in_one_line(error)}") from error


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Names and shapes first, so that a header that lies is refused before anything is allocated for it."""
    for name in sorted(tensors.keys() ^ expected.keys()):
        raise InputError(f"{path}: tensor {name} is {'unexpected' if name in tensors else 'missing'}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, its config says {tuple(expected[name].shape)}"
            raise InputError(f"{path}: tensor {name} has shape {shapes}")
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {name} is not all finite numbers")


def _fingerprint(config: Config, tensors: dict[str, Tensor]) -> str:
    """Of what latents mean: the weights, in whatever precision, and the settings of front end and model."""
    digest = hashlib.sha256((config.spectrogram.model_dump_json() + config.model.model_dump_json()).encode())
    _add_tensors(digest, {name: tensor.float() for name, tensor in tensors.items() if name.startswith("model.")})
    return digest.hexdigest()[:16]


def _checksum(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Of everything in the file but itself: safetensors notices a file that is cut, not one whose bytes changed."""
    digest = hashlib.sha256(json.dumps([header.get(key, "") for key in ("format", "config", "facts")]).encode())
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def _add_tensors(digest: "hashlib._Hash", tensors: dict[str, Tensor]) -> None:
    for name in sorted(tensors):
        data = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + data.numpy().tobytes())
