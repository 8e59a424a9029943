"""Recordings brought to the pitch and the time between them before their latents are mixed.

So a note glides and moves from where it is in one to where it is in the other, instead of crossfading.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from audiovae.chunks import chunks
from audiovae.codec import CHUNK_LATENT_FRAMES, Codec
from audiovae.note_match import Means, NoteMatch, Recordings, decoded_around
from audiovae.retiming import common_places, read, settled, stretched
from audiovae.spectrogram import band_centres_hz
from audiovae.voices import Voices, move_voices, voice_shares


class NoteAlignment:
    """Recordings, ready to be brought to one length and the pitch and time between them, as their match says."""

    def __init__(self, codec: Codec, means: Recordings, match: NoteMatch) -> None:
        self.codec, self.means, self.match = codec, means, match
        self._short: dict[int, tuple[int, Tensor, Tensor]] = {}
        """What ``_encoded_again`` returned, of recordings of one chunk: each step of a path moves them anew."""

    def at(
        self,
        weights: Float[Tensor, "recordings latent_frames"],
        *,
        seconds: float | None = None,
        ratios: Sequence[float] | None = None,
    ) -> Means:
        """All recordings at the weighted mean of their pitches and times, frame by frame, by weights that sum to 1.

        ``seconds`` is the length of the result, by default that at which they were matched; each recording is as many
        times as long as ``ratios`` say. Latents hold several frames each, so what lies between two of them is neither:
        an attack would be smeared, and up to 24 dB of it lost. So it is the decoded frames that are stretched, too.

        A recording that has no weight, or all of it, from end to end is only stretched, if need be. Where weights turn
        so fast that time would go back, it stands still.
        """
        chosen = _smoothly(weights.float(), self.codec.config.model.time_stride)
        match = self.match.stretched(chosen.shape[1], self.match.seconds if seconds is None else seconds)
        places = common_places(match.times, chosen)
        voices = match.voices.at(places)
        pitches = torch.cat([read(match.above_semitones, places)[:, None], voices.pitches], dim=1)
        common = (chosen[:, None] * pitches).sum(0)
        # A line from 1 to 1 is 1 but for rounding.
        is_left = (chosen == 0).all(1, keepdim=True) | ((chosen - 1).abs() < 1e-6).all(1, keepdim=True)
        semitones = torch.where(is_left[:, None] | (chosen[:, None] == 0), 0.0, common - pitches)
        frames = torch.arange(len(places), dtype=torch.float64)
        times = torch.where(is_left, frames, read(match.times, places))
        ratios = [1.0] * len(times) if ratios is None else ratios
        times = settled(torch.stack([stretched(one, ratio) for one, ratio in zip(times, ratios, strict=True)]))
        return torch.stack(
            [self._moved(place, times[place], semitones[place], voices) for place in range(len(self.means))]
        )

    def _moved(
        self, place: int, times: Float[Tensor, " frames"], semitones: Float[Tensor, "shares frames"], voices: Voices
    ) -> Float[Tensor, "channels latent_channels latent_frames"]:
        """A recording's latents, read at these frames and transposed: first what is in no voice, then each voice.

        They are z + E(T(D(z))) - E(D(z)), with encoder E, decoder D, and a move T of the spectrogram in pitch and time;
        z and the last term are read at the same times. So latents stay exactly the same where nothing moves, however
        inexact encoder and decoder are.
        """
        mean, config, moved = self.means[place], self.codec.config, []
        context, stride = 2 * self.codec.checkpoint.model.context_latent_frames, config.model.time_stride
        centres_hz = band_centres_hz(config.spectrogram)
        frames = torch.arange(stride * mean.shape[-1], dtype=torch.float64)
        if not semitones.any() and torch.equal(times, frames):
            return mean
        faster = max(1.0, float(times[-1] - times[0]) / len(times))
        for first, last, keep in chunks(len(times) // stride, math.ceil(CHUNK_LATENT_FRAMES / faster), context):
            part = slice(first * stride, last * stride)
            start, spectrogram, encoding = self._encoded_again(place, times[part])
            there = read(spectrogram, times[part] - start * stride)
            shares = voice_shares(voices.pitches[place, :, part], voices.strength[:, part], centres_hz)
            encoded = self._encode(move_voices(there, shares, semitones[:, part], self.codec.spectrogram))
            # A latent frame lies in the middle of its spectrogram frames.
            middles = (times[part].unflatten(0, (-1, stride)).mean(1) - (stride - 1) / 2) / stride
            change = encoded - read(encoding, middles - start)
            moved.append((read(mean, middles) + change.to(mean))[..., keep])
        return torch.cat(moved, dim=-1)

    def _encoded_again(self, place: int, times: Float[Tensor, " frames"]) -> tuple[int, Tensor, Tensor]:
        """What is needed to read a recording at these times: its first latent frame, D(z) and E(D(z))."""
        if place in self._short:
            return self._short[place]
        first, spectrogram = decoded_around(self.codec, self.means[place], times)
        found = first, spectrogram, self._encode(spectrogram)
        if self.means[place].shape[-1] <= CHUNK_LATENT_FRAMES:
            self._short[place] = found
        return found

    def _encode(
        self, spectrogram: Float[Tensor, "channels 1 n_bands frames"]
    ) -> Float[Tensor, "channels latent_channels latent_frames"]:
        """Its latents, of the channels that the recordings have."""
        with torch.inference_mode():
            return self.codec.checkpoint.model.encode(spectrogram).mean[:, : self.means[0].shape[1]]


def _smoothly(weights: Float[Tensor, "recordings latent_frames"], stride: int) -> Float[Tensor, "recordings frames"]:
    """Weights of latent frames to those of spectrogram frames, in lines from one's middle to the next one's."""
    return functional.interpolate(weights[None], scale_factor=stride, mode="linear", align_corners=False)[0]
