"""Two ideas beside Griffin-Lim's analytic start, at their price: a learned start, and half the hop.

    python tests/benchmarks/phase_start.py --train TRAIN... --test TEST... [--clips 96] [--write DOCUMENT]

TRAIN and TEST are audio files; --clips of TRAIN are drawn, and 4 s of each are heard. 7 s of each TEST are measured,
on one thread, from three kinds of magnitude: the recording's own ("true"), those of its bands ("bands"), and those of
the bundled model's reconstruction ("decoded"). A cell is spectral convergence to the recording's magnitude in dB
(lower is better), Zimtohrli's mean opinion score of the waveform, and milliseconds of CPU for 10 s of audio.

`phase-learned`: a network of two hidden layers looks at the log magnitudes around each spectral peak and says how far
the peak's phase advances from the frame before and how the bins beside it are turned against it; the rest of the
start is as in the package. One is trained for true magnitudes, one for decoded ones, against the recording's phase.
"true phase" is what a perfect prediction would give.

`phase-hop`: hop 512 against hop 256, whose frames are twice as many: compare rows of equal time. Decoded bands are
interpolated over time.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from document import table, write_block
from torch import Tensor, nn
from torch.nn import functional

import audiovae
from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.evaluation.perceptual import zimtohrli_mos
from audiovae.griffin_lim import griffin_lim

SAMPLE_RATE, N_FFT, HOP = 44100, 2048, 512
KINDS = ("true", "bands", "decoded")
AROUND_FRAMES, AROUND_BINS = 3, 5
"""What the network sees of each side of a peak."""
NEAR = 3
"""Bins on each side of a peak whose phase it predicts; those beyond are turned as the last one is."""
WIDTH, STEPS, BATCH, PEAKS_A_CLIP = 32, 4000, 4096, 16000
AUDIBLE = 1e-4
"""Peaks this far below the loudest bin are not asked about."""

Start = Callable[[Tensor, Tensor], Tensor | None]
"""The phase [bins, frames] to start from, of a magnitude [bins, frames] and the recording; None is the package's."""


def load(path: Path, *, first: float, seconds: float) -> Tensor:
    """Mono, a whole number of hops, at the level that the model works at."""
    waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(waveform.mean(1), rate, SAMPLE_RATE)
    length = int(seconds * SAMPLE_RATE)
    begin = min(int(first * SAMPLE_RATE), max(0, len(mono) - length))
    clip = torch.from_numpy(mono[begin : begin + length])
    clip = clip[: len(clip) // HOP * HOP]
    return clip * (0.1 / clip.square().mean().sqrt().clamp_min(1e-6))


def stft(waveform: Tensor, hop: int = HOP) -> Tensor:
    window = torch.hann_window(N_FFT)
    return torch.stft(waveform, N_FFT, hop, window=window, pad_mode="constant", return_complex=True)


@torch.no_grad()
def magnitude(codec: Codec, clip: Tensor, kind: str, hop: int = HOP) -> Tensor:
    """[bins, frames] of one kind."""
    true = stft(clip, hop).abs()
    if kind == "true":
        return true
    if kind == "bands":
        bands = codec.spectrogram.normalise(codec.spectrogram.to_bands(true[None]))
    else:
        bands = codec.spectrogram_of(codec.encode(Audio(clip[None], SAMPLE_RATE)))
        if hop != HOP:
            longer = (bands.shape[-1] - 1) * HOP // hop + 1
            bands = functional.interpolate(bands, longer, mode="linear", align_corners=True)
    found = codec.spectrogram.magnitude(bands.clone())[0]
    # The decoder rounds to whole latent frames: what it lacks at the very end is as its last frame.
    found = functional.pad(found, (0, max(0, true.shape[1] - found.shape[1])), mode="replicate")[:, : true.shape[1]]
    return found * true.norm() / found.norm()


def wrap(angle: Tensor) -> Tensor:
    return (angle + math.pi).remainder(2 * math.pi) - math.pi


def peaks(level: Tensor) -> Tensor:
    """For each bin of [frames, bins], the local maximum that climbing leads to."""
    bins = level.shape[1]
    index = torch.arange(bins)
    padded = functional.pad(level, (1, 1), value=-math.inf)
    left, right = padded[:, :-2], padded[:, 2:]
    goes_left, goes_right = (left >= right) & (left > level), (right > left) & (right > level)
    leftwards = (index * ~goes_left).cummax(1).values
    rightwards = (bins - 1) - ((bins - 1 - index) * ~goes_right).flip(1).cummax(1).values.flip(1)
    return torch.where(goes_right, rightwards, leftwards)


def views(level: Tensor, frame: Tensor, peak: Tensor) -> Tensor:
    """The network's input: log magnitudes around each peak, relative to it, and where in the spectrum it is."""
    sides = (AROUND_BINS, AROUND_BINS, AROUND_FRAMES, AROUND_FRAMES)
    log = functional.pad((level + 1e-6).log()[None, None], sides, mode="replicate")[0, 0]
    rows, columns = torch.arange(2 * AROUND_FRAMES + 1), torch.arange(2 * AROUND_BINS + 1)
    offset = (rows[:, None] * log.shape[1] + columns).flatten()
    seen = log.flatten()[(frame * log.shape[1] + peak)[:, None] + offset]
    seen = ((seen - seen[:, len(offset) // 2, None]) / 2).clamp(-4, 4)
    return torch.cat([seen, (peak + 1).log2()[:, None] / 5 - 1], 1)


def centre_advance(bins: Tensor) -> Tensor:
    """By how much the phase of a sine on the bin's centre advances in a hop."""
    return 2 * math.pi / N_FFT * (HOP * bins % N_FFT)


def beside() -> Tensor:
    """The bins near a peak that the network speaks about, as distances."""
    return torch.tensor([*range(-NEAR, 0), *range(1, NEAR + 1)])


def lesson(codec: Codec, path: Path, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """What the network sees of some peaks of a recording, what it should have said, and how loud each is."""
    clip = load(path, first=2, seconds=4)
    level = magnitude(codec, clip, kind).T.contiguous()
    level /= level.max().clamp_min(1e-9)
    angle = stft(clip).angle().T
    is_peak = (peaks(level) == torch.arange(level.shape[1])) & (level > AUDIBLE)
    is_peak[0] = False
    frame, peak = is_peak.nonzero(as_tuple=True)
    some = torch.randperm(len(frame))[:PEAKS_A_CLIP]
    frame, peak = frame[some], peak[some]
    advance = angle[frame, peak] - angle[frame - 1, peak] - centre_advance(peak)
    near = (peak[:, None] + beside()).clamp(0, level.shape[1] - 1)
    turned = angle[frame[:, None], near] - angle[frame, peak][:, None] - math.pi * beside()
    weight = torch.cat([level[frame, peak][:, None], level[frame[:, None], near]], 1) / level.square().mean().sqrt()
    return views(level, frame, peak), wrap(torch.cat([advance[:, None], turned], 1)), weight.sqrt()


def train(codec: Codec, paths: Sequence[Path], kind: str) -> nn.Module:
    """Cosine (von Mises) loss, weighted by the square root of magnitude."""
    torch.manual_seed(0)
    seen, said, weight = (
        torch.cat(parts) for parts in zip(*(lesson(codec, path, kind) for path in paths), strict=True)
    )
    network = nn.Sequential(
        *(nn.Linear(seen.shape[1], WIDTH), nn.SiLU()),
        *(nn.Linear(WIDTH, WIDTH), nn.SiLU()),
        nn.Linear(WIDTH, said.shape[1]),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(seen), (BATCH,))
        loss = ((1 - (network(seen[rows]) - said[rows]).cos()) * weight[rows]).sum() / weight[rows].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def learned_phase(network: nn.Module, target: Tensor) -> Tensor:
    """Phase [bins, frames], integrated from frame to frame along the peaks."""
    level = target.T.contiguous() / target.max().clamp_min(1e-9)
    frames, bins = level.shape
    index, leader = torch.arange(bins), peaks(level)
    frame, peak = ((leader == index) & (level > AUDIBLE)).nonzero(as_tuple=True)
    said = network(views(level, frame, peak))
    # A row of zeros for the peaks that are too quiet, a column of zeros for the peak itself.
    said = functional.pad(said, (0, 0, 0, 1))
    turned = torch.cat([said[:, 1 : 1 + NEAR], torch.zeros(len(said), 1), said[:, 1 + NEAR :]], 1)
    row = torch.full((frames, bins), len(frame))
    row[frame, peak] = torch.arange(len(frame))
    row = row.gather(1, leader)
    step = said[row, 0] + centre_advance(leader) + turned[row, (index - leader).clamp(-NEAR, NEAR) + NEAR]
    step += math.pi * ((index - leader) % 2)
    phase, before = torch.empty_like(level), math.pi * (index % 2).float()
    for now, ahead, where in zip(phase, step, leader, strict=True):
        before = (ahead + before[where]).remainder(2 * math.pi)
        now[:] = before
    return phase.T


class Score:
    """Means over clips of convergence, opinion score and time."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []

    def add(self, clip: Tensor, waveform: Tensor, seconds: float) -> None:
        true = stft(clip).abs()
        error = (stft(waveform).abs() - true).norm() / true.norm()
        mos = zimtohrli_mos(clip[None], waveform[None], SAMPLE_RATE)
        self.rows.append((float(20 * error.log10()), mos, 1e3 * seconds * 10 * SAMPLE_RATE / len(clip)))

    def cell(self) -> str:
        convergence, mos, milliseconds = np.mean(self.rows, axis=0)
        return f"{convergence:.1f} / {mos:.3f} / {milliseconds:.0f}"


def invert(target: Tensor, hop: int, iterations: int, phase: Tensor | None = None) -> Tensor:
    return griffin_lim(target[None], hop_length=hop, iterations=iterations, phase=phase)[0]


def compare_starts(codec: Codec, clips: list[Tensor], networks: dict[str, nn.Module]) -> str:
    """The table `phase-learned`."""
    starts: dict[str, Start] = {"package": lambda target, clip: None}
    for kind, network in networks.items():
        starts[f"learned on {kind}"] = lambda target, clip, network=network: learned_phase(network, target)
    starts["true phase"] = lambda target, clip: stft(clip).angle()
    iterations, rows = (0, 2, 4, 8, 16), []
    for kind in KINDS:
        scores = {(name, count): Score() for name in starts for count in iterations}
        for clip in clips:
            target = magnitude(codec, clip, kind)
            for (name, count), score in scores.items():
                began = time.process_time()
                waveform = invert(target, HOP, count, starts[name](target, clip))
                score.add(clip, waveform, time.process_time() - began)
        rows += [[kind, name, *(scores[name, count].cell() for count in iterations)] for name in starts]
    return table(["magnitudes", "start", *(f"{count} iterations" for count in iterations)], rows)


def compare_hops(codec: Codec, clips: list[Tensor]) -> str:
    """The table `phase-hop`."""
    counts = {HOP: (0, 2, 4, 8, 16, 32), HOP // 2: (0, 1, 2, 4, 8, 16)}
    scores = {(kind, hop, count): Score() for kind in KINDS for hop in counts for count in counts[hop]}
    for clip in clips:
        targets = {(kind, hop): magnitude(codec, clip, kind, hop) for kind in KINDS for hop in counts}
        for (kind, hop, count), score in scores.items():
            began = time.process_time()
            waveform = invert(targets[kind, hop], hop, count)
            score.add(clip, waveform, time.process_time() - began)
    rows = [
        [str(hop), str(count), *(scores[kind, hop, count].cell() for kind in KINDS)]
        for pair in zip(*counts.values(), strict=True)
        for hop, count in zip(counts, pair, strict=True)
    ]
    return table(["hop", "iterations", *KINDS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--clips", type=int, default=96, help="recordings of --train that are drawn")
    parser.add_argument("--write", type=Path, help="a document with blocks for these tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = audiovae.load(device="cpu")
    clips = [load(path, first=3, seconds=7) for path in options.test]
    invert(magnitude(codec, clips[0][: 32 * HOP], "true"), HOP, 1)  # compiles what compiles itself at its first call
    drawn = random.Random(0).sample(options.train, min(options.clips, len(options.train)))
    networks = {kind: train(codec, drawn, kind) for kind in ("true", "decoded")}
    report("phase-learned", compare_starts(codec, clips, networks), options.write)
    report("phase-hop", compare_hops(codec, clips), options.write)


def report(name: str, text: str, document: Path | None) -> None:
    """Prints a table, and puts it into the document if that has a place for it."""
    print(text, end="\n\n", flush=True)
    if document and f"<!-- {name} -->" in document.read_text(encoding="utf-8"):
        write_block(document, name, text)


if __name__ == "__main__":
    main()
