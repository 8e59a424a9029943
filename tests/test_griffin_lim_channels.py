"""Phase reconstruction of two channels, in blocks, and of a past that is there already."""

import pytest
import torch
from phase_sounds import HOP, SAMPLE_RATE, bursts, chord, convergence_db, in_blocks, stft, vibrato
from torch import Tensor

from audiovae.griffin_lim import griffin_lim

pytestmark = pytest.mark.usefixtures("one_thread")


def test_channels_keep_their_levels_and_share_the_phase():
    source = chord() + bursts()
    left = stft(source).abs()
    waveform = griffin_lim(torch.stack([left, 0.25 * left]), hop_length=HOP, iterations=8)
    torch.testing.assert_close(waveform[1], 0.25 * waveform[0], atol=1e-5, rtol=1e-4)
    alone = griffin_lim(left[None], hop_length=HOP, iterations=8)[0]
    assert convergence_db(waveform[0], left) == pytest.approx(convergence_db(alone, left), abs=0.5)


def test_mono_sum_of_two_sources_has_the_sum_of_the_magnitudes():
    tone, noise = stft(chord()).abs(), stft(bursts()).abs()
    magnitude = torch.stack([0.9 * tone + 0.3 * noise, 0.2 * tone + 0.8 * noise])
    waveform = griffin_lim(magnitude, hop_length=HOP, iterations=16)
    apart = torch.cat([griffin_lim(row[None], hop_length=HOP, iterations=16) for row in magnitude])
    shared_db, apart_db = (convergence_db(both.sum(0), magnitude.sum(0)) for both in (waveform, apart))
    assert shared_db < -15
    assert shared_db < apart_db - 3
    for channel, target in zip(waveform, magnitude, strict=True):
        assert channel.norm() / waveform.norm() == pytest.approx(float(target.norm() / magnitude.norm()), rel=0.03)


def coherence(waveform: Tensor) -> float:
    left, right = stft(waveform)
    return float((left * right.conj()).sum().abs() / (left.norm() * right.norm()))


def test_width_is_kept_where_the_channels_differ_and_only_there():
    generator = torch.Generator().manual_seed(2)
    same, left, right = 0.1 * torch.randn(3, 2 * SAMPLE_RATE // HOP * HOP, generator=generator)
    for sound, least, most in ((torch.stack([same, 0.5 * same]), 0.999, 1.0), (torch.stack([left, right]), 0.0, 0.5)):
        waveform = griffin_lim(stft(sound).abs(), hop_length=HOP, iterations=16)
        assert least <= coherence(waveform) <= most + 1e-5
    assert convergence_db(waveform[0], stft(left).abs()) < -15  # noise is hard: -20 alone, -13 with one phase


@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_join_without_a_seam(channels):
    sound = vibrato(6.0)
    sounds = torch.stack([sound, 0.3 * sound + 0.05 * chord(6.0)])[:channels]
    magnitude = stft(sounds).abs()
    block = 1 + (magnitude.shape[2] - 1) // 3
    waveform, joins = in_blocks(magnitude, block=block, context=8, look_ahead=32, iterations=16)
    assert waveform.shape == (channels, len(sound))
    assert len(joins) == 2
    made, in_one = stft(waveform).abs(), stft(griffin_lim(magnitude, hop_length=HOP, iterations=16)).abs()
    error, error_in_one = ((one - magnitude).norm(dim=1) / magnitude.norm(dim=1) for one in (made, in_one))
    curvature = waveform.diff(n=2).abs()
    for join in joins:
        frame = join // HOP
        near = slice(frame - 2, frame + 3)
        assert (error[:, near].amax(1) <= 1.1 * error_in_one[:, near].amax(1)).all()
        assert (curvature[:, join - 4 : join + 40].amax(1) <= curvature[:, join - 8000 : join - 100].amax(1)).all()
        level = made[:, :, near].norm(dim=1) / magnitude[:, :, near].norm(dim=1)
        assert (20 * torch.log10(level)).abs().max() < 0.1


def test_continuation_ignores_what_the_magnitudes_say_about_the_past():
    magnitude = stft(chord(1.0)).abs()[None]
    past = griffin_lim(magnitude, hop_length=HOP, iterations=8)[:, : 20 * HOP]
    expected = griffin_lim(magnitude, hop_length=HOP, iterations=8, past=past)
    # The window of frame 17 ends two hops later, with frame 19; frame 16 is looked at for the frequencies of 17.
    magnitude[:, :, :16] = magnitude[:, :, :16].flip(2)
    assert torch.equal(griffin_lim(magnitude, hop_length=HOP, iterations=8, past=past), expected)


@pytest.mark.parametrize("hops", [1, 2, 39])
def test_past_of_any_number_of_hops_is_returned_exactly(hops):
    magnitude = stft(chord(1.0)).abs()[None, :, :40]
    past = chord(1.0)[None, : hops * HOP]
    waveform = griffin_lim(magnitude, hop_length=HOP, iterations=4, past=past)
    assert torch.equal(waveform[:, : hops * HOP], past)
    assert waveform.shape == (1, 39 * HOP)
    assert waveform.isfinite().all()
