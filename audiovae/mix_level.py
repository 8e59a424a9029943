"""How loud recordings are as far as they are mixed, and how loud a mix of them may be."""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

from audiovae.alignment import Fit, Number, level_over_time_db
from audiovae.codec import Codec
from audiovae.latents import Latents
from audiovae.level import ABSOLUTE_GATE_DB

LOUDER_DB = 3.0
"""So much louder, relative to its level, the loudest moment of a mix may be than those of the recordings are."""


class MixLevel:
    """Levels of recordings that are mixed.

    Only a codec can tell those of parts and of moments; without one, which is only without alignment, those of the
    whole count.
    """

    def __init__(self, latents: Sequence[Latents], codec: Codec | None, fit: Fit) -> None:
        self._latents, self._codec, self._fit = latents, codec, fit

    @functools.cached_property
    def levels_db(self) -> list[float]:
        """Of each recording, as far as it is used: what is left of one that is trimmed may be softer than the whole."""
        levels_db = []
        for one, used in zip(self._latents, self._used, strict=True):
            level_db = one.level_db
            if self._codec and used is not one and level_db > -math.inf:
                left_db = self._codec.decoded_level_db(used)
                is_heard = left_db > ABSOLUTE_GATE_DB
                level_db += left_db - self._codec.decoded_level_db(one) if is_heard else -math.inf
            levels_db.append(level_db)
        return levels_db

    def not_too_loud(self, mixed: Latents, *shares: Sequence[Number]) -> Latents:
        """The mix of these shares, made softer if its loudest moment would be far louder than those of the recordings.

        Of one that moves from some shares to others, both are given: it may be as loud as the louder of them.

        While only one of them sounds, a mix is soft. If that is most of the time, raising its level to theirs would
        make a blow of the few moments in which all sound; and from where on they are few, the level would jump.
        """
        between_db = max(level_over_time_db(self._crests_db, some) for some in shares)
        if self._codec is None or between_db == -math.inf:  # all that has a share above 0 is silent
            return mixed
        louder_db = self._codec.crest_db(mixed) - between_db
        return replace(mixed, level_db=mixed.level_db - max(0.0, louder_db - LOUDER_DB))

    @functools.cached_property
    def _used(self) -> list[Latents]:
        """What is left of each recording if they are trimmed, or else all of it."""
        frames = min(self._latents, key=lambda one: one.duration_seconds).latent_frames
        return [
            replace(one, mean=one.mean[..., :frames], logvar=None)
            if self._fit == "trim" and one.latent_frames > frames
            else one
            for one in self._latents
        ]

    @functools.cached_property
    def _crests_db(self) -> list[float]:
        """By how many dB the loudest moment of each recording lies above its level; -inf in silence."""
        return [
            self._codec.crest_db(used) if self._codec and level_db > -math.inf else -math.inf
            for used, level_db in zip(self._used, self.levels_db, strict=True)
        ]
