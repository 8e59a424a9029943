"""Phase reconstruction beside librosa's and torchaudio's: quality against time, on one thread; tables and a picture.

    pip install ".[evaluate]"
    python tests/benchmarks/griffin_lim.py [CLIP...] [--seconds 10] [--write tests/benchmarks/synthesis.md]

Quality is spectral convergence in dB (lower is better; to the clip's STFT magnitudes), the mean opinion score that
Zimtohrli predicts (5 can't be told apart) and the log-mel error in dB, as means over clips; time is CPU milliseconds
for 10 s of audio at 44.1 kHz (the best of three runs a clip, methods in turn). Clips are by default those of
data/examples; only the first seconds of the first channel are taken. With --write, the picture is put beside the
document.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean

import librosa
import torch
import torchaudio
from document import table, write_block
from picture import Curve, write_curves
from torch import Tensor

import audiovae
from audiovae import frame_weights
from audiovae.audio import Audio
from audiovae.bank import Bank
from audiovae.codec import ITERATIONS, Codec
from audiovae.evaluation.perceptual import zimtohrli_mos
from audiovae.evaluation.reconstruction import log_mel_error_db, spectral_convergence_db
from audiovae.griffin_lim import griffin_lim
from audiovae.phase_refinement import Iterations

SAMPLE_RATE, N_FFT, HOP = 44100, 2048, 512
COUNTS = (0, 2, 4, 8, 16, 32, 64)
REPEATS = 3
ALIKE = ", frames alike"
EXAMPLES = Path(__file__).parents[2] / "data" / "examples"

Method = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """Means over clips."""

    convergence_db: float
    mos: float
    log_mel_db: float
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.convergence_db:.1f} / {self.mos:.2f} / {self.log_mel_db:.2f} / {self.milliseconds:.0f}"


def ours(iterations: int | Iterations) -> Method:
    return lambda magnitude: griffin_lim(magnitude[None], hop_length=HOP, iterations=iterations)


def low_first(count: int) -> Method:
    """As much work as so many iterations of all bins, divided as the qualities of ``decode`` do."""
    return ours(
        Iterations(count // 4, quarter=count, eighth=4 * count)
        if count > 2
        else Iterations(count // 2, eighth=4 * count)
    )


def with_torchaudio(iterations: int) -> Method:
    transform = torchaudio.transforms.GriffinLim(N_FFT, iterations, hop_length=HOP, power=1.0, momentum=0.99)
    return lambda magnitude: transform(magnitude)[None]


def with_librosa(iterations: int) -> Method:
    def run(magnitude: Tensor) -> Tensor:
        made = librosa.griffinlim(magnitude.numpy(), n_iter=iterations, hop_length=HOP, n_fft=N_FFT, momentum=0.99)
        return torch.from_numpy(made)[None]

    return run


LIBRARIES = {
    "audiovae": low_first,
    "audiovae, all bins": ours,
    "torchaudio 0.99": with_torchaudio,
    "librosa 0.99": with_librosa,
}


def score(methods: dict[str, Method], clips: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Score]:
    """Each method on all pairs of a waveform and the magnitudes to reconstruct it from."""
    found: dict[str, list[Score]] = {name: [] for name in methods}
    for waveform, magnitude in clips:
        times: dict[str, list[float]] = {name: [] for name in methods}
        made = {}
        for name, method in list(methods.items()) * REPEATS:
            start = time.process_time()
            made[name] = method(magnitude)
            times[name].append(time.process_time() - start)
        for name, output in made.items():
            milliseconds = 1e4 * min(times[name]) * SAMPLE_RATE / waveform.shape[1]
            target, output = waveform[:, : output.shape[1]], output[:, : waveform.shape[1]]
            mos = zimtohrli_mos(target, output, SAMPLE_RATE)
            log_mel_db = log_mel_error_db(target, output, SAMPLE_RATE)
            found[name].append(Score(spectral_convergence_db(target, output), mos, log_mel_db, milliseconds))
    return {name: average(scores) for name, scores in found.items()}


def average(scores: list[Score]) -> Score:
    return Score(*(mean(getattr(one, field.name) for one in scores) for field in fields(Score)))


def stft_magnitude(waveform: Tensor) -> Tensor:
    window = torch.hann_window(N_FFT)
    return torch.stft(waveform, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True).abs()


def load(path: Path, seconds: float) -> Tensor:
    mono = Audio.load(path).resample(SAMPLE_RATE).waveform[:1, : int(seconds * SAMPLE_RATE)]
    return mono[:, : mono.shape[1] // HOP * HOP]


def from_true_bands(codec: Codec, waveform: Tensor) -> Tensor:
    return codec.spectrogram(waveform[None])[0, 0]


def from_model(codec: Codec, waveform: Tensor) -> Tensor:
    """The decoder's bands, at the level of the true ones."""
    spectrogram, true = (
        codec.spectrogram_of(codec.encode(Audio(waveform, SAMPLE_RATE)))[0],
        from_true_bands(codec, waveform),
    )
    spectrogram = torch.nn.functional.pad(
        spectrogram, (0, max(0, true.shape[1] - spectrogram.shape[1])), mode="replicate"
    )
    spectrogram = spectrogram[:, : true.shape[1]]
    gain = codec.spectrogram.denormalise(true).norm() / codec.spectrogram.denormalise(spectrogram).norm()
    return codec.spectrogram.normalise(codec.spectrogram.denormalise(spectrogram) * gain)


def ways() -> dict[str, Iterations]:
    """The qualities, each with as much work on all bins beside it, and with frames that count alike."""
    found = {}
    for name, iterations in ITERATIONS.items():
        work = round(iterations.full + iterations.quarter / 4 + iterations.eighth / 8)
        found |= {name: iterations, f"{name}, all bins": Iterations(work), f"{name}{ALIKE}": iterations}
    return found


def by_ways(make: Callable[[Iterations], Method]) -> dict[str, Method]:
    methods = {name: make(iterations) for name, iterations in ways().items()}
    return {name: with_frames_alike(one) if name.endswith(ALIKE) else one for name, one in methods.items()}


def with_frames_alike(method: Method) -> Method:
    """The same, where they overlap no frame counting more than another."""

    def run(magnitude: Tensor) -> Tensor:
        usual, frame_weights.POWER = frame_weights.POWER, 0.0
        made = method(magnitude)
        frame_weights.POWER = usual
        return made

    return run


def qualities(codec: Codec, clips: list[Tensor]) -> tuple[list[list[str]], dict[str, Score], dict[str, Score]]:
    """Rows of each way: true magnitudes; true and decoded bands, each inverted for good and held to as bands.

    And the scores from true magnitudes, and from true bands, inversion timed.
    """

    def inverted(bank: Bank | None) -> dict[str, Method]:
        return by_ways(
            lambda iterations: (
                lambda bands: griffin_lim(
                    codec.spectrogram.magnitude(bands[None]), hop_length=HOP, iterations=iterations, bank=bank
                )
            )
        )

    magnitudes = [(clip, stft_magnitude(clip)[0]) for clip in clips]
    bands = [(clip, from_true_bands(codec, clip)) for clip in clips]
    decoded = [(clip, from_model(codec, clip)) for clip in clips]
    columns = [
        score(by_ways(ours), magnitudes),
        *(score(inverted(bank), sounds) for sounds in (bands, decoded) for bank in (None, codec.spectrogram.bank)),
    ]
    rows = [
        [name, *map(str, iterations), *(str(column[name]) for column in columns)] for name, iterations in ways().items()
    ]
    return rows, columns[0], columns[2]


def fft_share(magnitude: Tensor) -> float:
    """How many times the time of its FFTs an iteration takes; both as the least of many runs."""

    def milliseconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(15):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return 1e3 * min(times)

    frames = torch.randn(128, N_FFT)
    ffts = milliseconds(lambda: torch.fft.irfft(torch.fft.rfft(frames), n=N_FFT)) / len(frames) * magnitude.shape[1]
    few, many = (milliseconds(lambda count=count: ours(count)(magnitude)) for count in (8, 24))
    return (many - few) / 16 / ffts


def saved(results: dict[str, dict[int, Score]], library: str) -> str:
    """The least of our counts that beats 32 of a library's iterations in both measures, and the times."""
    theirs = results[library][32]
    for count, score in results["audiovae"].items():
        if score.convergence_db < theirs.convergence_db and score.mos > theirs.mos:
            return f"the work of {count} iterations, 1/{theirs.milliseconds / score.milliseconds:.1f} of its time"
    return "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.flac")))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    codec = audiovae.load(device="cpu")
    clips = [load(path, arguments.seconds) for path in arguments.clips]
    pairs = [(clip, stft_magnitude(clip)[0]) for clip in clips]
    for library in LIBRARIES.values():  # compiles what compiles itself at its first call
        library(1)(pairs[0][1])
    results: dict[str, dict[int, Score]] = {name: {} for name in LIBRARIES}
    with torch.inference_mode():
        for count in COUNTS:
            for name, found in score({name: method(count) for name, method in LIBRARIES.items()}, pairs).items():
                results[name][count] = found
        rows, of_magnitudes, of_bands = qualities(codec, clips)
        share = fft_share(pairs[0][1])
    named = {name: [str(one) for one in scores.values()] for name, scores in results.items()}
    methods = table(
        ["iterations", *named], [[str(count), *cells] for count, *cells in zip(COUNTS, *named.values(), strict=True)]
    )
    levels = table(
        [
            "quality",
            "iterations of all bins",
            "at a quarter of the rate",
            "at an eighth",
            "true magnitudes",
            "true bands, inverted for good",
            "true bands",
            "decoded bands, inverted for good",
            "decoded bands",
        ],
        rows,
    )
    facts = table(
        ["measure", f"mean of {len(clips)} clips"],
        [
            ["better than librosa's 32 iterations in both measures", saved(results, "librosa 0.99")],
            ["better than torchaudio's 32 iterations in both measures", saved(results, "torchaudio 0.99")],
            ["standard, bands to waveform", f"{1e4 / of_bands['standard'].milliseconds:.0f}× real time"],
            ["best, spectral convergence from true magnitudes", f"{of_magnitudes['best'].convergence_db:.1f} dB"],
            ["an iteration's time, in times of its FFTs", f"{share:.2f}"],
        ],
    )
    print(methods, levels, facts, sep="\n\n")
    if arguments.write:
        write_block(arguments.write, "methods", methods)
        write_block(arguments.write, "qualities", levels)
        write_block(arguments.write, "facts", facts)
        measured = {name: list(scores.values()) for name, scores in results.items()}
        write_curves(
            arguments.write.with_suffix(".svg"),
            "CPU milliseconds for 10 s of audio",
            {
                "spectral convergence, dB (lower is better)": [
                    Curve(name, [(one.milliseconds, one.convergence_db) for one in scores])
                    for name, scores in measured.items()
                ],
                "Zimtohrli MOS (higher is better)": [
                    Curve(name, [(one.milliseconds, one.mos) for one in scores]) for name, scores in measured.items()
                ],
                "log-mel error, dB (lower is better)": [
                    Curve(name, [(one.milliseconds, one.log_mel_db) for one in scores])
                    for name, scores in measured.items()
                ],
            },
        )


if __name__ == "__main__":
    main()
