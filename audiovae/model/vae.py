"""The convolutional VAE: 2-D stages on the spectrogram image, 1-D stages that see the whole spectrum, latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from audiovae.config import Config
from audiovae.model.blocks import ChannelNorm, ResidualBlock, Shuffle, Unshuffle
from audiovae.model.posterior import LOGVAR_RANGE, Posterior
from audiovae.model.principal_components import PrincipalComponents

LOGVAR_START = -3.0
"""Posterior log-variance before training, of the least component: narrow, so that its code gets through."""


class Encoder(nn.Module):
    """Spectrogram to the posterior's parameters.

    The 1-D stage takes the whole patch under each latent frame, and what the 2-D stages found in the image.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, bands = config.model, config.spectrogram.n_bands
        stages: list[nn.Module] = []
        channels = 1
        for width, stride, blocks in zip(model.channels, model.band_strides, model.encoder_blocks, strict=True):
            stages.append(Unshuffle(channels, width, bands=stride, frames=2))
            stages += [ResidualBlock(width, dimensions=2) for _ in range(blocks)]
            channels, bands = width, bands // stride
        width = model.bottleneck_width
        self.stages = nn.Sequential(*stages)
        self.fold = nn.Conv1d(channels * bands, width, 1)
        self.embed = nn.Conv1d(config.spectrogram.n_bands, width, model.stage_stride, stride=model.stage_stride)
        self.bottleneck = _bottleneck(width, model.encoder_bottleneck_blocks)
        parameters, stride = model.latent_channels * (2 if model.variational else 1), model.bottleneck_stride
        self.head = nn.Conv1d(width, parameters, stride, stride=stride)
        _start_at_zero(self.head, bias=LOGVAR_START, bias_from=model.latent_channels)

    def forward(
        self, spectrogram: Float[Tensor, "batch 1 n_bands frames"]
    ) -> Float[Tensor, "batch parameters latent_frames"]:
        image = self.stages(spectrogram.contiguous(memory_format=torch.channels_last))
        whole = self.embed(spectrogram[:, 0]) + self.fold(image.flatten(1, 2))
        return self.head(self.bottleneck(whole))


class Decoder(nn.Module):
    """Latents to spectrogram.

    The 1-D stage comes first, so that a latent can say *where* in the spectrum things lie; it draws a first image
    of the whole patch, which the 2-D stages see and correct.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, width, n_bands = config.model, config.model.bottleneck_width, config.spectrogram.n_bands
        self.bands = n_bands
        for stride in model.band_strides:
            self.bands //= stride
        stride = model.bottleneck_stride
        self.embed = nn.ConvTranspose1d(model.latent_channels, width, stride, stride=stride)
        self.bottleneck = _bottleneck(width, model.decoder_bottleneck_blocks)
        self.draft = nn.ConvTranspose1d(width, n_bands, model.stage_stride, stride=model.stage_stride)
        self.unfold = nn.Conv1d(width, model.channels[-1] * self.bands, 1)
        _start_at_zero(self.draft)
        self.look = Unshuffle(1, model.channels[0], bands=model.band_strides[0], frames=2)
        stages: list[nn.Module] = []
        inwards = zip(model.channels, (1, *model.channels), model.band_strides, model.decoder_blocks, strict=False)
        for channels, channels_out, stride, blocks in reversed(list(inwards)):
            residual = [ResidualBlock(channels, dimensions=2) for _ in range(blocks)]
            shuffle = Shuffle(channels, channels_out, bands=stride, frames=2)
            if channels_out == 1:
                _start_at_zero(shuffle.conv)
            stages.append(nn.Sequential(*residual, shuffle))
        self.stages = nn.ModuleList(stages)

    def forward(
        self,
        latents: Float[Tensor, "batch latent_channels latent_frames"],
        linear: Float[Tensor, "batch 1 n_bands frames"],
    ) -> Float[Tensor, "batch 1 n_bands frames"]:
        """Corrects the linear part's image."""
        hidden = functional.silu(self.bottleneck(self.embed(latents)))
        first = linear + self.draft(hidden)[:, None]
        image = self.unfold(hidden).unflatten(1, (-1, self.bands)).contiguous(memory_format=torch.channels_last)
        for stage in self.stages[:-1]:
            image = stage(image)
        image = image + self.look(first.contiguous(memory_format=torch.channels_last))
        return first + self.stages[-1](image)


def _bottleneck(width: int, blocks: int) -> nn.Sequential:
    residual = [ResidualBlock(width, dimensions=1) for _ in range(blocks)]
    return nn.Sequential(ChannelNorm(width), *residual, ChannelNorm(width))


def _start_at_zero(conv: nn.Module, *, bias: float = 0.0, bias_from: int = 0) -> None:
    """The network's first output is nearly nothing: training starts from what the principal components do."""
    with torch.no_grad():
        for name, parameter in conv.named_parameters():
            if name == "weight":
                parameter.mul_(0.01)
            else:
                parameter.zero_()
                parameter[bias_from:] = bias


class VAE(nn.Module):
    """Encoder and decoder, fully convolutional in time: any number of latent frames, ``time_stride`` frames each.

    Both are the sum of a linear part, fitted by PCA, and a network that learns the rest.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.components = PrincipalComponents(
            config.spectrogram.n_bands, config.model.time_stride, config.model.latent_channels
        )
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def fit_components(self, covariance: Float[Tensor, "size size"], mean: Float[Tensor, " size"]) -> None:
        """Fits the linear part, and starts the posterior's widths where its components want them.

        Noise of the same size in the spectrogram from every component, so the greater ones have narrower posteriors:
        what is best for independent Gaussians at any rate (reverse water-filling, Cover & Thomas, section 10.3).
        """
        self.components.fit(covariance, mean)
        if self.config.model.variational:
            scale = self.components.scale
            logvar = LOGVAR_START + 2 * (scale[-1] / scale).log()
            with torch.no_grad():
                self.encoder.head.get_parameter("bias")[len(scale) :] = logvar.clamp_min(LOGVAR_RANGE[0] + 1)

    def start_from(self, trained: "VAE") -> None:
        """Takes the weights of a model of the same shape; a plain autoencoder a VAE's, less what gives the widths."""
        weights = trained.state_dict()
        if trained.config.model.variational and not self.config.model.variational:
            for name in ("encoder.head.weight", "encoder.head.bias"):
                weights[name] = weights[name][: self.config.model.latent_channels]
        self.load_state_dict(weights)

    def encode(self, spectrogram: Float[Tensor, "batch 1 n_bands frames"]) -> Posterior:
        """q(z given x). Frames must be a multiple of ``time_stride``. A plain autoencoder's has no width to sample."""
        parameters = self.encoder(spectrogram).float()
        linear = self.components.encode(spectrogram)
        if not self.config.model.variational:
            return Posterior(linear + parameters, torch.full_like(parameters, LOGVAR_RANGE[0]))
        mean, logvar = parameters.chunk(2, dim=1)
        return Posterior(linear + mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(
        self, latents: Float[Tensor, "batch latent_channels latent_frames"]
    ) -> Float[Tensor, "batch 1 n_bands frames"]:
        """The mean of p(x given z)."""
        return self.decoder(latents, self.components.decode(latents)).float()

    @property
    def context_latent_frames(self) -> int:
        """Latent frames on either side that can influence one; a chunk with this much context equals the whole."""
        model = self.config.model
        encoder, decoder = (
            2 * blocks / model.bottleneck_stride
            for blocks in (model.encoder_bottleneck_blocks, model.decoder_bottleneck_blocks)
        )
        for stage, (down, up) in enumerate(zip(model.encoder_blocks, model.decoder_blocks, strict=True)):
            # A 3-kernel reaches one place of its own stage, which is this share of a latent frame.
            reach = 2 ** (stage + 1) / model.time_stride
            encoder += 2 * down * reach
            decoder += 2 * up * reach
        return int(max(encoder, decoder)) + 1
