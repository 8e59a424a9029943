"""Settings: what is refused and in which words, and that the bundled files hold what they promise."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from audiovae.config import Config, SpectrogramConfig
from audiovae.errors import InputError
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram

CONFIGS = Path(__file__).parent.parent / "audiovae" / "configs"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def parameters_of(config: Config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VAE(config).parameters())


def test_derived_numbers_follow_from_the_stated_ones() -> None:
    config = Config()
    assert config.spectrogram.n_bins == 1025
    assert config.spectrogram.frame_rate == pytest.approx(86.13, abs=0.01)
    assert config.model.stage_stride == 4
    assert config.model.time_stride == 4
    assert config.latent_hop_length == 2048
    assert config.latent_rate == pytest.approx(21.53, abs=0.01)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path) -> None:
    config = Config.from_toml(write(tmp_path, "[training]\nsteps = 7\n"))
    assert config.training.steps == 7
    assert config.model_copy(update={"training": Config().training}) == Config()


def test_overrides_win_over_the_file(tmp_path) -> None:
    path = write(tmp_path, "[training]\nsteps = 7\n")
    config = Config.from_toml(path, ["training.steps=8", 'spectrogram.bank="mel"', "model.channels = [8, 8]"])
    assert (config.training.steps, config.spectrogram.bank, config.model.channels) == (8, "mel", (8, 8))


def test_json_gives_back_the_same_settings() -> None:
    config = Config.from_toml(CONFIGS / "large.toml")
    assert Config.from_json(config.model_dump_json(), "somewhere") == config


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().training.steps = 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[training]\nstep = 7", "training.step: Extra inputs are not permitted"),
        ("[training]\nsteps = 7.5", "training.steps: Input should be a valid integer"),
        ("[training]\nsteps = 0", "training.steps: Input should be greater than 0"),
        ("[training]\nmixed_precision = 'fp8'", "training.mixed_precision: Input should be 'no' or 'bf16'"),
        (
            "[training]\nmulti_resolution_weight = -1.0",
            "multi_resolution_weight: Input should be greater than or equal",
        ),
        ("[training]\nadversarial_weight = -0.1", "adversarial_weight: Input should be greater than or equal to 0"),
        ("[training]\ndiscriminator_learning_rate = 0.0", "discriminator_learning_rate: Input should be greater than"),
        (
            "[training]\nsteps = 500\nadversarial_weight = 0.5\nadversarial_start_step = 500",
            "adversarial_start_step 500 is not before the last of 500 steps: the discriminator would never join",
        ),
        ("[model]\nchannels = [8, 8, 8]", "one entry for each stage"),
        ("[spectrogram]\nn_bands = 40", "must be a multiple of the product of model.band_strides, 16"),
        (
            "[model]\nlatent_channels = 1025",
            "model.latent_channels must be at most 1024, as many as a latent frame has",
        ),
        ("[spectrogram]\nf_max = 30000.0", "half the sample rate"),
        ("[spectrogram]\nhop_length = 1000", "n_fft 2048 must be a multiple of hop_length 1000"),
        ("[training\n", "not TOML"),
    ],
)
def test_bad_files_are_refused_in_one_line_that_names_file_and_field(tmp_path, text, reason) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        Config.from_toml(path)
    assert str(error.value).startswith(f"{path}: ") and reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["steps=7", "training.steps", "training.steps=seven"])
def test_bad_overrides_are_refused(tmp_path, override) -> None:
    with pytest.raises(InputError, match=f"^--set {override}: "):
        Config.from_toml(write(tmp_path, ""), [override])


def test_a_missing_file_and_one_that_is_not_text_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: can't be read: No such file"):
        Config.from_toml(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml: can't be read: not text"):
        Config.from_toml(tmp_path / "binary.toml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_bundled_config_makes_a_model_of_the_same_front_end(path) -> None:
    config = Config.from_toml(path)
    assert config.spectrogram.sample_rate == 44_100
    assert config.latent_hop_length == 512 * config.model.time_stride
    assert Spectrogram(config.spectrogram).bank.filters.shape == (config.spectrogram.n_bands, 1025)
    assert parameters_of(config) > 0


def test_base_is_the_default_model() -> None:
    config = Config.from_toml(CONFIGS / "base.toml")
    assert (config.spectrogram, config.model) == (SpectrogramConfig(), Config().model)
    assert 8e6 < parameters_of(config) < 9e6
    training = config.training
    assert (training.steps, training.batch_size, config.data.segment_latent_frames) == (8000, 6, 48)
    assert (training.learning_rate, training.warmup_steps, training.beta_warmup_steps) == (6e-4, 300, 1000)


def test_autoencoder_differs_from_large_in_one_setting_and_names_none_of_the_kl() -> None:
    large, autoencoder = (Config.from_toml(CONFIGS / f"{name}.toml") for name in ("large", "autoencoder"))
    same_kl = {name: getattr(large.training, name) for name in ("beta", "beta_warmup_steps", "free_bits")}
    update = {
        "model": autoencoder.model.model_copy(update={"variational": True}),
        "training": autoencoder.training.model_copy(update=same_kl),
    }
    assert not autoencoder.model.variational
    assert autoencoder.model_copy(update=update) == large
    assert "free_bits" not in (CONFIGS / "autoencoder.toml").read_text()


def test_tiny_is_tiny() -> None:
    assert parameters_of(Config.from_toml(CONFIGS / "tiny.toml")) < 20_000


def test_large_is_base_in_large_batches_and_fits_the_package_in_half_precision_with_its_flow() -> None:
    large, base = (Config.from_toml(CONFIGS / f"{name}.toml") for name in ("large", "base"))
    assert (large.spectrogram, large.model) == (base.spectrogram, base.model)
    assert large.training.batch_size > base.training.batch_size
    assert large.training.mixed_precision == "bf16"
    with torch.device("meta"):
        prior = Prior.standard(large.model.latent_channels).with_flow()
        numbers = sum(tensor.numel() for part in (VAE(large), prior) for tensor in part.state_dict().values())
    assert 2 * numbers < 30e6
