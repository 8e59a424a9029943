"""audiovae: hear what lies between two pieces of music.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiovae.audio import Audio
    from audiovae.codec import Codec, load
    from audiovae.config import Config
    from audiovae.errors import InputError
    from audiovae.generation import generate
    from audiovae.interpolation import Morph, interpolate
    from audiovae.latents import Latents

    __version__: str

_HOMES = {
    "Audio": "audio",
    "Codec": "codec",
    "load": "codec",
    "Config": "config",
    "InputError": "errors",
    "generate": "generation",
    "interpolate": "interpolation",
    "Latents": "latents",
    "Morph": "interpolation",
}

__all__ = [
    "Audio",
    "Codec",
    "Config",
    "InputError",
    "Latents",
    "Morph",
    "__version__",
    "generate",
    "interpolate",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("audiovae")
    if name not in _HOMES:
        raise AttributeError(f"module 'audiovae' has no attribute {name!r}")
    return getattr(import_module(f"audiovae.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
