"""Whether in-betweens are in-betweens: measures that a crossfade can't win, and the crossfades to compare with.

A path is the STFT magnitudes of ``steps`` sounds at even weights from 0 to 1. Single measures can be fooled (a mix of
both ends is "between" by most of them), so they are read together, beside the same measures of a mix, an average in
dB and a switch.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.evaluation.log_mel import HOP_LENGTH, RANGE_DB, SILENT, distance_db, log_mel_db, with_floor

SoundPath = Float[Tensor, "steps bins frames"]
PathLevels = Float[Tensor, "steps mels frames"]
"""Of a path, as ``log_mel_db`` gives them."""
Sound = Float[Tensor, "bins frames"]

HARMONICS, CANCELLED_BINS = 20, 3
"""Harmonics that make a pitch salient; bins on either side of each that are cancelled with it."""
TRANSPORT_QUANTILES = 4000
COMPRESSION = 0.67
"""Power that magnitudes are raised to, lest a formant outshouts the fundamental (Tolonen & Karjalainen, 2000)."""
PITCH_RANGE_HZ = (80.0, 1000.0)
PITCH_STEPS_AN_OCTAVE = 480


def db_average(a: Sound, b: Sound, weight: float) -> Sound:
    """The crossfade in dB, which a decoder that is linear in log magnitudes makes, whatever its encoder did."""
    if weight in (0, 1):
        return b if weight else a
    floor = float(torch.maximum(a.max(), b.max())) * 10 ** (-RANGE_DB / 20)
    return torch.lerp(a.clamp_min(floor).log(), b.clamp_min(floor).log(), weight).exp()


def hard_switch(a: Sound, b: Sound, weight: float) -> Sound:
    """One end up to the middle, then the other."""
    return a if weight < 0.5 else b


def by_way_of(third: Sound, a: Sound, b: Sound, weight: float) -> Sound:
    """A detour: from ``a`` to an unrelated sound and from there to ``b``, in dB; smooth, and between nothing."""
    return db_average(a, third, 2 * weight) if weight < 0.5 else db_average(third, b, 2 * weight - 1)


def transport(a: Sound, b: Sound, weights: Sequence[float]) -> SoundPath:
    """Each frame's magnitudes moved along the frequency axis at least cost (Henderson & Solomon, 2019).

    In one dimension that joins equal quantiles (McCann, 1997): the n-th thousandth of one spectrum's mass goes to the
    n-th of the other's, whatever partials they belong to.
    """
    quantiles = (torch.arange(TRANSPORT_QUANTILES, dtype=torch.float64) + 0.5) / TRANSPORT_QUANTILES
    places, masses = [], []
    for sound in (a, b):
        mass = sound.double().T + SILENT
        masses.append(mass.sum(1))
        running = mass.cumsum(1) / mass.sum(1, keepdim=True)
        wanted = quantiles.expand(len(mass), -1).contiguous()
        places.append(torch.searchsorted(running, wanted).clamp(max=len(sound) - 1).double())
    steps = []
    for weight in weights:
        place = torch.lerp(places[0], places[1], weight).round().long()
        share = (torch.lerp(masses[0], masses[1], weight) / TRANSPORT_QUANTILES)[:, None].expand(place.shape)
        steps.append(torch.zeros(len(place), len(a), dtype=torch.float64).scatter_add(1, place, share).T.to(a))
    return torch.stack(steps)


class TruePath:
    """True in-betweens, which others are compared with."""

    def __init__(self, truth: SoundPath, sample_rate: int) -> None:
        steps = len(truth)
        self._level_db = log_mel_db(truth, sample_rate)
        crossfade = [db_average(truth[0], truth[-1], step / (steps - 1)) for step in range(steps)]
        self._crossfade_error_db = self._inner_error_db(log_mel_db(torch.stack(crossfade), sample_rate))

    @property
    def frames(self) -> int:
        """Of the sounds, which all have one length."""
        return self._level_db.shape[-1]

    def relative_error(self, path_db: PathLevels) -> float:
        """Distance to the truth over that of the average in dB of the true ends: 0 is perfect, 1 a crossfade.

        Distances are RMS differences of log-mel levels, summed over all steps but the ends.
        """
        return self._inner_error_db(path_db) / self._crossfade_error_db

    def endpoint_error_db(self, path_db: PathLevels) -> float:
        """RMS log-mel difference of the path's ends to the sounds that they should be."""
        return sum(distance_db(path_db[end], self._level_db[end]) for end in (0, -1)) / 2

    def _inner_error_db(self, path_db: PathLevels) -> float:
        return sum(distance_db(path_db[step], self._level_db[step]) for step in range(1, len(path_db) - 1))


def crossfade_residual(path: SoundPath) -> float:
    """Share of the middle that no mix of the ends explains: min over a, b >= 0 of ||M - a A - b B|| / ||M||."""
    a, b, middle = (path[step].double().flatten() for step in (0, -1, len(path) // 2))
    gram = torch.stack([torch.stack([a @ a, a @ b]), torch.stack([a @ b, b @ b])])
    both = torch.linalg.lstsq(gram, torch.stack([a @ middle, b @ middle])).solution
    alone = [(a @ middle / (a @ a)) * a, (b @ middle / (b @ b)) * b]
    mixes = [*alone, both[0] * a + both[1] * b] if (both >= 0).all() else alone
    return min(float((middle - mix).norm() / middle.norm()) for mix in mixes)


def db_residual(path_db: PathLevels) -> float:
    """The same in dB: RMS of what an affine mix of the ends' log-mel levels leaves, over the middle's deviation."""
    level_db = path_db[[0, len(path_db) // 2, -1]]
    level_db = with_floor(level_db, level_db).double().flatten(1)
    ends = torch.stack([level_db[0], level_db[2], torch.ones_like(level_db[0])], dim=1)
    left = level_db[1] - ends @ torch.linalg.lstsq(ends, level_db[1], driver="gelsd").solution
    return float(left.square().mean().sqrt() / level_db[1].std())


def second_pitch_salience(sound: Sound, sample_rate: int) -> float:
    """Salience of a second pitch beside the first: near 0 for one tone, above a half for a mix of two.

    Salience sums the harmonics' peaks, weighted as by Klapuri (2006, ISMIR, multiple fundamental frequency estimation
    by summing harmonic amplitudes); the best pitch's harmonics are cancelled before the second is looked for.
    """
    spectrum = sound.mean(1).double().pow(COMPRESSION)
    bin_hz = sample_rate / 2 / (len(spectrum) - 1)
    first, pitch_hz = _best_pitch(spectrum, bin_hz)
    harmonics = torch.arange(1, int(sample_rate / 2 / pitch_hz) + 1) * pitch_hz / bin_hz
    bins = torch.arange(len(spectrum))
    cancelled = ((bins[:, None] - harmonics).abs() <= CANCELLED_BINS).any(1)
    second, _ = _best_pitch(spectrum.masked_fill(cancelled, 0), bin_hz)
    return second / max(first, SILENT)


def descriptor_nonlinearity(path: SoundPath, sample_rate: int, *, hop_length: int = HOP_LENGTH) -> float:
    """How far the sound's descriptors stray from the straight line between the ends' (soundmm, Le Vaillant 2024).

    RMS deviation over the steps, relative to the ends' difference or to the least one that is heard, whichever is
    greater; mean over the descriptors. A third sound, which is neither end nor between, strays far.
    """
    found = torch.stack([_descriptors(sound, sample_rate, hop_length) for sound in path])
    weights = torch.linspace(0, 1, len(path), dtype=found.dtype)[:, None]
    strayed = (found - torch.lerp(found[0], found[-1], weights)).square().mean(0).sqrt()
    return float((strayed / torch.maximum((found[-1] - found[0]).abs(), _LEAST_HEARD)).mean())


def step_variation(path_db: PathLevels) -> float:
    """Deviation of the steps' sizes (RMS log-mel differences of neighbours) over their mean: 0 is even."""
    level_db = with_floor(path_db, path_db)
    steps = (level_db[1:] - level_db[:-1]).square().mean((1, 2)).sqrt()
    return float(steps.std(correction=0) / steps.mean())


def onset_contrast(path_db: PathLevels) -> float:
    """How much of the middle's rising levels is in few frames, relative to the ends: below 1, two rhythms are heard.

    Of a sound it is the mean square over the squared mean of what rises from frame to frame in log-mel levels.
    """
    level_db = path_db[[0, len(path_db) // 2, -1]]
    level_db = with_floor(level_db, level_db)
    rise_db = (level_db[..., 1:] - level_db[..., :-1]).clamp_min(0).mean(1).double() + SILENT
    first, middle, last = rise_db.square().mean(1) / rise_db.mean(1).square()
    return float(middle / (first * last).sqrt())


_LEAST_HEARD = torch.tensor([0.1, 0.1, 0.3, 0.02], dtype=torch.float64)
"""Differences of the descriptors that are just heard: octaves, octaves, none, seconds."""


def _descriptors(sound: Sound, sample_rate: int, hop_length: int) -> Float[Tensor, "4"]:
    """Centroid and spread (both log2), skewness, temporal centroid in seconds. No level: ``decode`` sets that."""
    power = sound.square() + SILENT
    bins, frames = power.sum(1, dtype=torch.float64)[1:], power.sum(0, dtype=torch.float64)
    share = bins / bins.sum()
    octaves = (torch.arange(1, len(power)) * (sample_rate / 2 / (len(power) - 1))).double().log2()
    centroid = share @ octaves
    spread = (share @ (octaves - centroid).square()).sqrt()
    skewness = share @ ((octaves - centroid) / spread).pow(3)
    seconds = torch.arange(len(frames)).double() * hop_length / sample_rate
    when = frames @ seconds / frames.sum()
    return torch.stack([centroid, spread.log2(), skewness, when])


def _best_pitch(spectrum: Float[Tensor, "bins"], bin_hz: float) -> tuple[float, float]:
    """Salience and Hz of the most salient pitch."""
    lowest, highest = (torch.tensor(hz).log2() for hz in PITCH_RANGE_HZ)
    count = int((highest - lowest) * PITCH_STEPS_AN_OCTAVE)
    pitches = 2 ** torch.linspace(float(lowest), float(highest), count, dtype=torch.float64)
    numbers = torch.arange(1, HARMONICS + 1, dtype=torch.float64)
    partials = pitches[:, None] * numbers
    weights = (pitches[:, None] + 27) / (partials + 320)
    places = partials / bin_hz
    left = places.long().clamp(max=len(spectrum) - 2)
    peaks = torch.lerp(spectrum[left], spectrum[left + 1], places - left)
    salience = (weights * peaks * (places <= len(spectrum) - 1)).sum(1)
    best = int(salience.argmax())
    return float(salience[best]), float(pitches[best])
