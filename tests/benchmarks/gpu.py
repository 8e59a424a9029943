"""How fast a training step and encoding are on a GPU, compared with what the card can do.

    python tests/benchmarks/gpu.py [--checkpoint FILE] [--skip encoding training] [--profile]

Times are medians, of CUDA events where only the card works. The training step is the trainer's own, on spectrograms
that are there already or are made from a batch's waveforms: with its passes recorded, as the trainer has them, and with
kernels launched one by one. Its operations are taken as three times those of the model's forward pass, which torch
counts. *From memory* is what ``audiovae encode`` does with decoded pieces: to the card in batches, and latents back.
``--profile`` lists the operations of a training step by the time that the card spends in them.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from document import table
from encoding import EXAMPLES, decode_only, many_files, whole
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import audiovae
from audiovae.checkpoint import Facts, save_checkpoint
from audiovae.codec import Codec
from audiovae.config import Config
from audiovae.encoding.batches import BatchEncoder
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import PIECE_LATENT_FRAMES
from audiovae.encoding.preparation import Analysis
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.spectrogram import hop_length_at
from audiovae.training.data import Cache
from audiovae.training.loop import Trainer
from audiovae.training.segments import Segment, by_pitch, spectrograms, window_lengths

CONFIGS = Path(audiovae.__file__).parent / "configs"
BATCHES = (64, 256)
FRESH = "bf16, each of a fresh batch"
WAYS = ("float32", "bf16, kernels one by one", "bf16, compiled, one by one", "bf16", FRESH)
PIECES = 1500
"""Of 24 s: 10 hours."""


@dataclass(frozen=True)
class Card:
    """What the card can do, as measured."""

    name: str
    copied_gb: float
    """A second, on the card, read and written."""
    sent_gb: float
    """A second, from the host's pinned memory."""
    bf16_tflops: float
    tf32_tflops: float

    @classmethod
    def measure(cls) -> "Card":
        a = torch.randn(1 << 30, device="cuda")
        b, host = torch.empty_like(a), torch.empty(1 << 28, pin_memory=True)
        copied = 2 * a.nbytes / 1e9 / card_seconds(lambda: b.copy_(a))
        sent = host.nbytes / 1e9 / card_seconds(lambda: b[: 1 << 28].copy_(host, non_blocking=True))
        rates = []
        for dtype in (torch.bfloat16, torch.float32):
            x, y = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
            torch.backends.cuda.matmul.allow_tf32 = True
            rates.append(2 * 8192**3 / 1e12 / card_seconds(lambda x=x, y=y: x @ y))
            torch.backends.cuda.matmul.allow_tf32 = False
        return cls(torch.cuda.get_device_name(), copied, sent, *rates)


def card_seconds(work: Callable[[], object], runs: int = 10) -> float:
    """Median of CUDA events around one call each, after three that don't count."""
    for _ in range(3):
        work()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write, each its inputs and outputs once; views move none."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        inputs = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        made = [one for one in tree_leaves(outputs) if isinstance(one, torch.Tensor)]
        places = {one.untyped_storage().data_ptr() for one in inputs}
        in_place = func.__name__.split(".")[0].endswith("_")
        if in_place or any(one.untyped_storage().data_ptr() not in places for one in made):
            self.bytes += sum(one.numel() * one.element_size() for one in (*inputs, *made))
        return outputs


def random_codec(config: Config, folder: Path) -> Codec:
    """Of a model that has learnt nothing: as fast as any."""
    path = folder / "random.safetensors"
    prior = Prior.standard(config.model.latent_channels)
    save_checkpoint(path, model=VAE(config), prior=prior, facts=Facts(), force=True)
    return audiovae.load(path, device="cuda")


def trainer_of(batch: int, precision: str, folder: Path) -> Trainer:
    """A trainer of ``large``."""
    settings = [f"training.batch_size={batch}", f"training.mixed_precision='{precision}'"]
    config = Config.from_toml(CONFIGS / "large.toml", settings)
    AcceleratorState._reset_state(reset_partial_state=True)  # it knows one precision a process
    gc.collect()  # the one before, of whose memory nothing is to be counted
    torch.cuda.empty_cache()
    return Trainer(config, Cache(folder, (), ()), folder, device="cuda", facts=Facts())


def batch_of(config: Config) -> list[Segment]:
    """Noise in the trainer's pitches, pinned as its loader's batches are."""
    random = np.random.default_rng(0)
    lengths = window_lengths(config.spectrogram.n_fft, config.data.pitch_semitones)
    frames = config.data.segment_latent_frames * config.model.time_stride
    segments = []
    for _ in range(config.training.batch_size):
        shifted = random.random() < config.data.pitch_share
        n_fft = lengths[random.integers(len(lengths))] if shifted else config.spectrogram.n_fft
        samples = (frames - 1) * hop_length_at(n_fft, config.spectrogram) + n_fft
        noise = random.integers(-3000, 3000, samples).astype(np.int16)
        segments.append(Segment(torch.from_numpy(noise), torch.tensor(1.0), n_fft))
    return [Segment(one.audio.pin_memory(), one.gain.pin_memory(), one.n_fft) for one in by_pitch(segments)]


def training_rows(card: Card, folder: Path) -> Iterator[list[str]]:
    for batch in BATCHES:
        for way in WAYS:
            trainer = trainer_of(batch, "no" if way == "float32" else "bf16", folder)
            if "one by one" in way:
                trainer.back = trainer._back
            if "compiled" in way:
                trainer.step_module = torch.compile(trainer.step_module)
            drawn = batch_of(trainer.config)
            target = spectrograms(drawn, trainer.spectrogram)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                trainer.vae.decode(trainer.vae.encode(target[:2]).mean)
            tflop = 3 * counter.get_total_flops() * batch / 2 / 1e12
            torch.cuda.reset_peak_memory_stats()
            made_anew = (spectrograms(one, trainer.spectrogram) for one in repeat(drawn))
            targets = made_anew if way == FRESH else repeat(target)
            seconds = card_seconds(lambda trainer=trainer, targets=targets: trainer._step(next(targets)), runs=20)
            rate = card.tf32_tflops if way == "float32" else card.bf16_tflops
            heard = batch * trainer.config.data.segment_latent_frames / trainer.config.latent_rate / seconds
            figures = 1 / seconds, heard, tflop / seconds, 100 * tflop / seconds / rate
            memory_gb = torch.cuda.max_memory_allocated() / 1e9
            row = [str(batch), way, *(f"{one:,.1f}" for one in (*figures, memory_gb))]
            print(*row, flush=True)
            yield row
            del trainer, targets, made_anew


def profile(folder: Path) -> str:
    """Where a step's time on the card goes."""
    trainer = trainer_of(64, "bf16", folder)
    target = spectrograms(batch_of(trainer.config), trainer.spectrogram)
    trainer.back = trainer._back
    for _ in range(5):
        trainer._step(target)
    with torch.profiler.profile(record_shapes=True) as profiler:
        for _ in range(5):
            trainer._step(target)
        torch.cuda.synchronize()
    return profiler.key_averages(group_by_input_shape=True).table(sort_by="self_cuda_time_total", row_limit=25)


def on_card(codec: Codec, latent_frames: int) -> tuple[Callable[[], object], float]:
    """Spectrogram and encoder of a batch that is there, and its seconds of audio."""
    longest = PIECE_LATENT_FRAMES
    samples = longest * codec.config.latent_hop_length
    waveform = 0.1 * torch.randn(latent_frames // longest, 1, samples, device="cuda")

    def work() -> object:
        with torch.inference_mode():
            return codec.checkpoint.model.encode(codec.spectrogram(waveform)[..., :-1])

    return work, waveform.numel() / codec.config.spectrogram.sample_rate


def from_memory(codec: Codec, pieces: int) -> tuple[float, float]:
    """Seconds of wall time, and of audio."""
    analysis = Analysis(codec.config, codec.checkpoint.model.context_latent_frames, PIECE_LATENT_FRAMES)
    config, length = codec.config, analysis.longest_piece
    samples = length * config.latent_hop_length - config.spectrogram.hop_length + config.spectrogram.n_fft
    waveforms = [0.1 * torch.randn(samples) for _ in range(16)]
    kept = slice(codec.checkpoint.model.context_latent_frames, -codec.checkpoint.model.context_latent_frames)
    for count in (200, pieces):
        with BatchEncoder(codec, analysis) as encoder:
            torch.cuda.synchronize()
            start = time.perf_counter()
            for number in range(count):
                list(encoder.add(waveforms[number % 16], kept, number))
            list(encoder.finish())
            seconds = time.perf_counter() - start
    audio = pieces * (length - 2 * codec.checkpoint.model.context_latent_frames) * config.latent_hop_length
    return seconds, audio / config.spectrogram.sample_rate


def encoding_text(card: Card, codec: Codec, folder: Path, files: int, workers: int) -> str:
    work, audio = on_card(codec, 16384)
    with FlopCounterMode(display=False) as counter, Traffic() as traffic:
        work()
    seconds = card_seconds(work)
    memory_seconds, memory_audio = from_memory(codec, PIECES)
    (folder / "music").mkdir()
    recordings = list(find_recordings([many_files(EXAMPLES, files, folder / "music")]))
    analysis = Analysis(codec.config, codec.checkpoint.model.context_latent_frames, PIECE_LATENT_FRAMES)
    clips = sorted(EXAMPLES.glob("*.flac"))
    warm = 4 * workers
    length = sum(audiovae.Audio.load(clip).samples / 44100 for clip in clips) / len(clips) * (files - warm)
    decoding = decode_only(recordings, analysis, workers, warm)
    (folder / "latents").mkdir()
    everything = whole(codec, recordings, folder / "latents", workers, warm)
    tflops, traffic_gb = counter.get_total_flops() / seconds / 1e12, traffic.bytes / 1e9 / seconds
    rows = [
        ["spectrogram and encoder, on the card", f"{audio / seconds:,.0f}"],
        ["from memory and back", f"{memory_audio / memory_seconds:,.0f}"],
        [f"files decoded by {workers} processes, no model", f"{length / decoding:,.0f}"],
        ["files to a dataset", f"{length / everything:,.0f}"],
    ]
    return table(["encode", "times real time"], rows) + (
        f"\n\nOn the card {tflops:.1f} TFLOP/s in float32 ({100 * tflops / card.tf32_tflops:.1f} % of a TF32 "
        f"product's) and {traffic_gb:,.0f} GB/s through its memory, each operation's inputs and outputs counted once "
        f"({100 * traffic_gb / card.copied_gb:.0f} % of a copy's)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="default: an untrained model of base")
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--skip", nargs="*", default=[], choices=["encoding", "training"])
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.profile:
            print(profile(folder))
        card = Card.measure()
        print(
            f"{card.name}, torch {torch.__version__}: copies {card.copied_gb:,.0f} GB/s, receives {card.sent_gb:.0f} "
            f"GB/s, products of 8192 x 8192 at {card.bf16_tflops:.0f} TFLOP/s in bf16, {card.tf32_tflops:.0f} in TF32\n"
        )
        if "encoding" not in arguments.skip:
            base = Config.from_toml(CONFIGS / "base.toml")
            given = arguments.checkpoint
            codec = audiovae.load(given, device="cuda") if given else random_codec(base, folder)
            print(encoding_text(card, codec, folder, arguments.files, arguments.workers), flush=True)
        if "training" not in arguments.skip:
            rows = list(training_rows(card, folder))
            header = ["batch", "", "steps a second", "× real time", "TFLOP/s", "% of a product's", "GB"]
            print(table(header, rows))


if __name__ == "__main__":
    main()
