"""Encoding and decoding speed beside other audio autoencoders: their own code, with random weights.

    pip install --no-deps acids-rave encodec diffusers music2latent gin-config cached-conv gputil lmdb udls einops
    pip install --no-deps flask blinker itsdangerous pytorch-lightning lightning-utilities torchmetrics huggingface-hub
    python tests/benchmarks/peers.py [--seconds 10] [--rounds 5] [--threads 1] [--write README.md]

Speed doesn't depend on what weights have learnt. Each system takes as many seconds of noise at its own rate, in turn
within each round; the figure is the best round's, in seconds of audio a second. Ours is the whole way, from waveform to
latents (level, spectrogram, encoder) and from latents to waveform (decoder, band inversion, Griffin-Lim at quality
standard); theirs is the network alone. Those of two channels encode stereo. RAVE's release asks scipy for
functions that moved since, which are put back first.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from document import table, write_block

import audiovae
from audiovae.audio import Audio

NOISE_LEVEL = 0.1


@dataclass(frozen=True)
class System:
    """Waveform to latents, and back."""

    name: str
    parameters: int
    encode: Callable[[], Any]
    decode: Callable[[Any], object]


def noise(channels: int, sample_rate: int, seconds: float, *, multiple: int = 1) -> torch.Tensor:
    samples = round(sample_rate * seconds)
    samples += -samples % multiple
    return NOISE_LEVEL * torch.randn(1, channels, samples)


def size(module: torch.nn.Module) -> int:
    """Parameters, without those that only training needs."""
    return sum(one.numel() for name, one in module.named_parameters() if "discriminator" not in name)


def ours(seconds: float) -> System:
    codec = audiovae.load(device="cpu")
    audio = Audio(noise(1, 44100, seconds)[0], 44100)
    return System("audiovae", size(codec.checkpoint.model), lambda: codec.encode(audio), codec.decode)


def rave(seconds: float) -> System:
    import scipy.signal
    import scipy.signal.windows

    firwin, kaiserord = scipy.signal.firwin, scipy.signal.kaiserord
    scipy.signal.kaiser = scipy.signal.windows.kaiser  # pyright: ignore[reportAttributeAccessIssue]
    scipy.signal.kaiserord = lambda ripple, width: kaiserord(ripple, torch.as_tensor(width).flatten()[0].item())

    def old_firwin(taps: int, cutoff: Any, *, nyq: float | None = None, **options: Any) -> Any:
        rate = {} if nyq is None else {"fs": 2 * nyq}
        return firwin(taps, torch.as_tensor(cutoff).flatten()[0].item(), **options, **rate)

    scipy.signal.firwin = old_firwin
    import cached_conv
    import gin
    import rave as package

    cached_conv.use_cached_conv(False)
    gin.parse_config_file(str(Path(package.__file__).parent / "configs" / "v2.gin"))
    model = package.RAVE().eval()
    waveform = noise(1, 44100, seconds, multiple=2048)
    # The encoder gives mean and scale; its first half is decoded.
    return System("RAVE v2", size(model), lambda: model.encode(waveform)[:, : model.latent_size], model.decode)


def encodec(seconds: float) -> System:
    from encodec import EncodecModel

    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    waveform = noise(1, 24000, seconds)
    return System("EnCodec, 24 kHz", size(model), lambda: model.encoder(waveform), model.decoder)


def stable_audio(seconds: float) -> System:
    from diffusers import AutoencoderOobleck

    model = AutoencoderOobleck(
        encoder_hidden_size=128,
        downsampling_ratios=[2, 4, 4, 8, 8],
        channel_multiples=[1, 2, 4, 8, 16],
        decoder_channels=128,
        decoder_input_channels=64,
        audio_channels=2,
        sampling_rate=44100,
    ).eval()
    waveform = noise(2, 44100, seconds, multiple=2048)
    return System(
        "Stable Audio's VAE, stereo", size(model), lambda: model.encode(waveform).latent_dist.mean, model.decode
    )


def music2latent(seconds: float) -> System:
    from types import SimpleNamespace

    from music2latent import inference, models

    network = models.UNet().eval()
    holder, longest = SimpleNamespace(gen=network), 44100 * 60
    waveform = noise(1, 44100, seconds)[0].numpy()
    return System(
        "Music2Latent",
        size(network),
        lambda: inference.encode_audio_inference(waveform, holder, longest, 1, device="cpu"),
        lambda latents: inference.decode_latent_inference(latents, holder, longest, 1, device="cpu"),
    )


SYSTEMS = {
    "audiovae": ours,
    "rave": rave,
    "encodec": encodec,
    "stable-audio": stable_audio,
    "music2latent": music2latent,
}


def measure(systems: list[System], rounds: int) -> dict[str, tuple[float, float]]:
    """Best wall times in seconds to encode and to decode."""
    best = {system.name: (float("inf"), float("inf")) for system in systems}
    for _ in range(rounds):
        for system in systems:
            start = time.perf_counter()
            latents = system.encode()
            encoded = time.perf_counter()
            system.decode(latents)
            decoded = time.perf_counter()
            encoding, decoding = best[system.name]
            best[system.name] = min(encoding, encoded - start), min(decoding, decoded - encoded)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--write", type=Path, help="a document with a block for this table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        systems = [SYSTEMS[name](options.seconds) for name in options.systems]
        best = measure(systems, options.rounds)
    rows = [
        [one.name, f"{one.parameters / 1e6:.1f} M", *(f"{options.seconds / wall:.3g}" for wall in (*walls, sum(walls)))]
        for one, walls in ((one, best[one.name]) for one in systems)
    ]
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    text = table(["system", "parameters", f"encode, × real time, {threads}", "decode", "both"], rows)
    print(text)
    if options.write:
        write_block(options.write, "peers", text)


if __name__ == "__main__":
    main()
