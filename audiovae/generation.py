"""New latents: samples of the prior, and variations of a recording."""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.latents import Latents, count_latent_frames
from audiovae.model.prior import Prior

DURATION_RANGE_SECONDS = (0.05, 3600.0)
LEAST_LEVEL_DB, DRAWS = -30.0, 8
"""Relative to the level that the model sees every recording at: the few draws that are softer are next to silence.
Another sound is drawn instead, so many times at most."""


@runtime_checkable
class HasPrior(Protocol):
    """What generation needs of a ``Codec``."""

    @property
    def prior(self) -> Prior: ...
    @property
    def config(self) -> Config: ...
    @property
    def fingerprint(self) -> str: ...
    def all_channels(
        self, mean: Float[Tensor, "channels latent_channels latent_frames"]
    ) -> Float[Tensor, "channels all_latent_channels latent_frames"]: ...
    def decoded_level_db(self, latents: Latents) -> float: ...


def generate(
    codec: HasPrior,
    *,
    duration_seconds: float | int = 4.0,
    seed: int = 0,
    index: int = 0,
    like: Latents | None = None,
    amount: float | int = 0.3,
) -> Latents:
    """A new sound from the codec's prior, or a variation of the recording ``like``.

    The same ``seed`` and ``index`` always give the same sound; another index gives another. A new sound gets the
    level that the model sees every recording at; one that is next to silence is drawn anew. A variation keeps the
    recording's length, channels, sample rate and level; ``amount`` says how far it goes: 0 is the recording's latents
    exactly, 1 a new sound of its kind (of all those that the prior knows, the one that the recording is likeliest of).
    Raises InputError for values out of range, and a recording of another model.
    """
    generator = _generator(seed, index)
    if like is not None:
        return _variation(codec, like, amount, generator, name=f"seed={seed}, index={index}")
    shortest, longest = DURATION_RANGE_SECONDS
    if not shortest <= duration_seconds <= longest:
        raise InputError(f"duration {duration_seconds:g}: must be {shortest:g} to {longest:g} seconds")
    least, name = codec.config.spectrogram.level_db + LEAST_LEVEL_DB, f"seed={seed}, index={index}"
    for _ in range(DRAWS):
        sound = _new(codec, duration_seconds, generator, name=name)
        if codec.decoded_level_db(sound) > least:
            break
    return sound


def _new(codec: HasPrior, duration_seconds: float | int, generator: torch.Generator, *, name: str) -> Latents:
    sample_rate = codec.config.spectrogram.sample_rate
    samples = round(duration_seconds * sample_rate)
    frames = count_latent_frames(samples, sample_rate, codec.config)
    return Latents(
        mean=codec.prior.sample(frames, count=1, generator=generator),
        logvar=None,
        source=f"generate({name})",
        sample_rate=sample_rate,
        samples=samples,
        level_db=codec.config.spectrogram.level_db,
        checkpoint=codec.fingerprint,
    )


def _generator(seed: int, index: int) -> torch.Generator:
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed}, index {index}: must not be negative")
    # Mixed, not added: neighbouring seeds would share their sounds.
    mixed = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


def _variation(
    codec: HasPrior, like: Latents, amount: float | int, generator: torch.Generator, *, name: str
) -> Latents:
    if not 0 <= amount <= 1:
        raise InputError(f"amount {amount:g}: must be 0 to 1")
    if like.checkpoint != codec.fingerprint:
        raise InputError(
            f"{like.source or 'latents'}: encoded by checkpoint {like.checkpoint}, but this one is {codec.fingerprint}"
        )
    mean = codec.prior.vary(codec.all_channels(like.mean), amount=amount, generator=generator)
    return replace(like, mean=mean, logvar=None, source=f"generate(like={like.source}, amount={amount:g}, {name})")
