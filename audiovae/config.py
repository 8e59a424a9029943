"""Frozen settings: TOML in, JSON out. Every number is stated once; what follows from it is a property."""

import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from audiovae.errors import InputError

Positive = Annotated[int, Field(gt=0)]
# Bounded, so that a checkpoint whose header lies can't ask for all the memory there is.
Size = Annotated[int, Field(gt=0, le=16384)]
Depth = Annotated[int, Field(ge=0, le=64)]
Stages = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]
StageDepths = tuple[Depth, ...]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel, frozen=True):
    """Base of all settings: frozen (each class says it again, for type checkers), and strict about names and types."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)


class SpectrogramConfig(Settings, frozen=True):
    """The front end: waveform to normalised spectrogram of compressed bands."""

    sample_rate: Positive = 44100
    """Hz; every input is resampled to it."""
    level_db: float = -20.0
    """dBFS; every recording is brought to this level before analysis, and back after synthesis."""
    n_fft: Size = 2048
    """STFT size and length of its Hann window, in samples."""
    hop_length: Size = 512
    """Samples between neighbouring frames."""
    n_bands: Size = 256
    """Number of triangular bands."""
    bank: Literal["hybrid", "mel"] = "hybrid"
    """hybrid: bands never narrower than an FFT bin; mel: torchaudio's slaney bank, for comparison."""
    f_min: Annotated[float, Field(ge=0)] = 0.0
    """Hz; lower edge of the lowest band."""
    f_max: Annotated[float, Field(gt=0)] = 22050.0
    """Hz; upper edge of the highest band."""
    exponent: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Power that band amplitudes are raised to; a full-scale sine has about 1."""
    mean: float = 0.128
    """Mean of the compressed bands over the training data."""
    std: Annotated[float, Field(gt=0)] = 0.103
    """Their standard deviation."""

    @property
    def frame_rate(self) -> float:
        """Spectrogram frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def n_bins(self) -> int:
        """Bins of the one-sided STFT."""
        return self.n_fft // 2 + 1

    @model_validator(mode="after")
    def _consistent(self) -> "SpectrogramConfig":
        if self.n_fft % self.hop_length or self.n_fft < 4 * self.hop_length:
            raise ValueError(
                f"n_fft {self.n_fft} must be a multiple of hop_length {self.hop_length}, at least 4 times it"
            )
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(f"need f_min {self.f_min} < f_max {self.f_max} <= half the sample rate {self.sample_rate}")
        bins = (self.f_max - self.f_min) * self.n_fft / self.sample_rate
        if self.bank == "hybrid" and self.n_bands + 1 > bins:
            raise ValueError(f"n_bands {self.n_bands} is more than the {bins:.0f} bins between f_min and f_max hold")
        return self


class ModelConfig(Settings, frozen=True):
    """The convolutional VAE. Stage i halves time, and divides bands by ``band_strides[i]``."""

    variational: bool = True
    """False makes a plain autoencoder of it: no sampling, no KL."""
    latent_channels: Size = 512
    """Numbers in one latent frame."""
    channels: Stages = (16, 64)
    """Width of the 2-D stages, from the spectrogram inwards."""
    band_strides: Stages = (4, 4)
    """By how much each stage divides the number of bands."""
    encoder_blocks: StageDepths = (0, 1)
    """Residual blocks in each 2-D stage of the encoder."""
    decoder_blocks: StageDepths = (1, 1)
    """Residual blocks in each 2-D stage of the decoder."""
    bottleneck_width: Size = 640
    """Channels of the 1-D stages that see the whole spectrum."""
    encoder_bottleneck_blocks: Depth = 1
    """Residual blocks of the encoder's 1-D stage."""
    decoder_bottleneck_blocks: Depth = 1
    """Residual blocks of the decoder's 1-D stage."""
    bottleneck_stride: Size = 1
    """Places of the 1-D stages to one latent frame."""

    @property
    def stage_stride(self) -> int:
        """Spectrogram frames to one place of the 1-D stages."""
        return 2 ** len(self.channels)

    @property
    def time_stride(self) -> int:
        """Spectrogram frames to one latent frame."""
        return self.stage_stride * self.bottleneck_stride

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        stages = {len(self.channels), len(self.band_strides), len(self.encoder_blocks), len(self.decoder_blocks)}
        if len(stages) != 1:
            raise ValueError(
                "channels, band_strides, encoder_blocks and decoder_blocks must have one entry for each stage"
            )
        return self


class DataConfig(Settings, frozen=True):
    """What training sees of the audio files."""

    segment_latent_frames: Positive = 32
    """Length of a training segment, in latent frames."""
    validation_share: Fraction = 0.05
    """Share of files held out, where the data folder has no ``valid`` folder of its own."""
    shares: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    """Share of the segments drawn from each of these top folders of the data; the rest is shared out by length."""
    gain_db: Annotated[float, Field(ge=0, le=60)] = 9.0
    """Segments are made louder or quieter by up to this much."""
    pitch_semitones: Annotated[float, Field(ge=0, le=24)] = 3.0
    """Segments sound up to this much higher or lower, by intervals of ``segments.window_lengths``; 0: as they are."""
    pitch_share: Fraction = 0.5
    """Share of the segments whose pitch is drawn at random."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that draw segments; 0 draws them in the training process."""

    @model_validator(mode="after")
    def _consistent(self) -> "DataConfig":
        if sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares add up to {sum(self.shares.values()):g}, more than 1")
        return self


class TrainingConfig(Settings, frozen=True):
    """One run of the optimizer."""

    steps: Positive = 20000
    """Optimizer steps in all."""
    batch_size: Positive = 16
    """Segments in one step of one process."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 6e-4
    """Peak of the schedule."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of linear warm-up, before the cosine."""
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-5
    """Where the cosine ends."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of AdamW, on weights of two or more dimensions."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    ema_decay: Fraction = 0.999
    """Of the moving average of the weights, which is what gets saved."""
    beta: Annotated[float, Field(ge=0)] = 1e-5
    """Weight of the KL (nats a latent frame) against the reconstruction loss."""
    beta_start: Annotated[float, Field(gt=0)] = 1e-6
    """Where the log-linear ramp of beta starts."""
    beta_warmup_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps of that ramp."""
    free_bits: Annotated[float, Field(ge=0)] = 0.1
    """Floor of the KL, in nats a channel and latent frame."""
    difference_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the loss on differences along time and along bands."""
    convergence_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the spectral convergence of linear band magnitudes."""
    multi_resolution_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss on spectrograms of a half, a quarter and an eighth of the resolution."""
    heard_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of each error that is smoothed over bands before it counts, as the ear does."""
    log_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss on mel bands in units of 20 dB."""
    adversarial_weight: Annotated[float, Field(ge=0)] = 0.0
    """Norm of the gradient that a discriminator sends, relative to the reconstruction losses'; 0: there is none."""
    feature_matching_weight: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the discriminator's features against its logits, in that gradient."""
    adversarial_start_step: Annotated[int, Field(ge=0)] = 1000
    """Step that the discriminator joins at."""
    adversarial_warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of the linear ramp of ``adversarial_weight``, from there on."""
    discriminator_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of Adam, constant."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """bf16 where the device is fast at it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of weights, data order, augmentation and posterior samples."""
    log_every: Positive = 20
    """Steps between two lines of the log."""
    validate_every: Positive = 1000
    """Steps between two validations."""
    checkpoint_every: Positive = 500
    """Steps between two saved states; at most this much work is lost."""
    max_skipped_steps: Positive = 50
    """Training ends with a message after so many non-finite steps in a row."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.adversarial_weight and self.adversarial_start_step >= self.steps:
            late = f"adversarial_start_step {self.adversarial_start_step} is not before the last of {self.steps} steps"
            raise ValueError(f"{late}: the discriminator would never join")
        return self


class Config(Settings, frozen=True):
    """All settings of a model and of its training."""

    spectrogram: SpectrogramConfig = SpectrogramConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @property
    def latent_hop_length(self) -> int:
        """Samples to one latent frame."""
        return self.spectrogram.hop_length * self.model.time_stride

    @property
    def latent_rate(self) -> float:
        """Latent frames a second."""
        return self.spectrogram.sample_rate / self.latent_hop_length

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        bands, stride = self.spectrogram.n_bands, math.prod(self.model.band_strides)
        if bands % stride:
            multiple = f"a multiple of the product of model.band_strides, {stride}"
            raise ValueError(f"spectrogram.n_bands {bands} must be {multiple}")
        if self.model.latent_channels > (values := bands * self.model.time_stride):
            raise ValueError(f"model.latent_channels must be at most {values}, as many as a latent frame has values")
        return self

    @classmethod
    def from_toml(cls, path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> "Config":
        """Reads a TOML file; each override is ``section.field=value``, the value in TOML.

        Raises InputError that names the file, or --set, and the field.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            return cls._from_values(values).with_overrides(overrides)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or 'not text'}") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: not TOML: {error}") from error
        except ValidationError as error:
            raise InputError(f"{path}: {_first_problem(error)}") from error

    def with_overrides(self, overrides: list[str] | tuple[str, ...]) -> "Config":
        """These settings with some replaced. Raises InputError that names --set and the field."""
        values = self.model_dump(mode="json")
        for override in overrides:
            _override(values, override)
        try:
            return self._from_values(values)
        except ValidationError as error:
            raise InputError(f"--set: {_first_problem(error)}") from error

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "Config":
        # By way of JSON, whose lists are tuples to pydantic even where it takes types at their word.
        return cls.model_validate_json(json.dumps(values, default=str))

    @classmethod
    def from_json(cls, text: str, source: str | Path) -> "Config":
        """Reads the JSON that ``model_dump_json`` wrote. Raises InputError that names ``source``."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(f"{source}: config: {_first_problem(error)}") from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, field = key.strip().partition(".")
    if not (equals and dot):
        raise InputError(f"--set {override}: want section.field=value, as in training.batch_size=8")
    try:
        (value,) = tomllib.loads(f"value = {text}").values()
    except ValueError as error:  # not TOML, or more than one line of it
        raise InputError(f"--set {override}: {text!r} is not a TOML value (text needs quotes)") from error
    values.setdefault(section, {})[field] = value


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "settings"
    return f"{where}: {problem['msg']}"
