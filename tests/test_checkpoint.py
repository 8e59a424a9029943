"""One file holds a model: round trip, and every way in which a file may not be one."""

import json
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_codec import TINY

from audiovae import checkpoint as checkpoint_module
from audiovae.checkpoint import Facts, load_checkpoint, save_checkpoint
from audiovae.errors import InputError
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE

FACTS = Facts(version="0.1.0", step=7, data="sines", license="MIT", metrics={"error_db": 3.5})


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE(TINY).eval()


@pytest.fixture
def path(tmp_path: Path, model: VAE) -> Path:
    prior = Prior.fit(torch.randn(20, 8, 16, generator=torch.Generator().manual_seed(0)))
    save_checkpoint(tmp_path / "model.safetensors", model=model, prior=prior, facts=FACTS)
    return tmp_path / "model.safetensors"


def rewrite(path: Path, **header: str) -> None:
    """The same tensors with other header fields, and a checksum that fits them: a lie made with care."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata()) | header
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save(path, tensors, {name: text for name, text in metadata.items() if text})


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    save_file(tensors, path, metadata=metadata | {"sha256": checkpoint_module._checksum(metadata, tensors)})


def refusal(path: Path) -> str:
    """The one line that loading ends with."""
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_round_trip_restores_model_prior_and_facts(path: Path, model: VAE):
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == TINY
    assert checkpoint.facts == FACTS
    spectrogram = torch.randn(1, 1, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.model.encode(spectrogram).mean, model.encode(spectrogram).mean)
    sample = checkpoint.prior.sample(5, count=2, generator=torch.Generator().manual_seed(0))
    assert sample.abs().max() > 0
    assert not checkpoint.model.training


def test_half_precision_halves_the_file_and_keeps_the_result(path: Path, model: VAE, tmp_path: Path):
    half = tmp_path / "half.safetensors"
    save_checkpoint(half, model=model, prior=Prior.standard(8), facts=FACTS, half=True)
    assert half.stat().st_size < 0.65 * path.stat().st_size
    spectrogram = torch.randn(1, 1, 64, 32)
    with torch.inference_mode():
        error = load_checkpoint(half).model.encode(spectrogram).mean - model.encode(spectrogram).mean
    assert error.abs().max() < 5e-3


def test_fingerprint_is_of_the_weights_in_whatever_precision_they_are_kept(model: VAE, tmp_path: Path):
    half, full = tmp_path / "half.safetensors", tmp_path / "full.safetensors"
    save_checkpoint(half, model=model, prior=Prior.standard(8), facts=FACTS, half=True)
    rounded = load_checkpoint(half)
    save_checkpoint(full, model=rounded.model, prior=rounded.prior, facts=FACTS)
    assert full.stat().st_size > 1.5 * half.stat().st_size
    assert load_checkpoint(full).fingerprint == rounded.fingerprint


def test_fingerprint_follows_weights_and_not_training(path: Path, model: VAE, tmp_path: Path):
    fingerprint = load_checkpoint(path).fingerprint
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    save_checkpoint(same, model=model, prior=Prior.standard(8), facts=Facts(step=99))
    assert load_checkpoint(same).fingerprint == fingerprint
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    save_checkpoint(other, model=model, prior=Prior.standard(8), facts=FACTS)
    assert load_checkpoint(other).fingerprint != fingerprint


def test_existing_file_is_kept_without_force(path: Path, model: VAE):
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        save_checkpoint(path, model=model, prior=Prior.standard(8), facts=FACTS)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_missing_file_and_folder(tmp_path: Path):
    assert refusal(tmp_path / "none.safetensors").endswith("no such file")
    assert "is a folder" in refusal(tmp_path)


def test_pickle_is_refused_and_never_run(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Trap()))
    assert "not a readable checkpoint" in refusal(path)
    torch.save({"weights": torch.zeros(3)}, path)
    assert "not a readable checkpoint" in refusal(path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keep", [0, 5, 100, 2000, -1])
def test_truncated_file_is_refused(path: Path, keep: int):
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a readable checkpoint" in refusal(path)


def test_other_safetensors_file_is_refused(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    save_file({"weights": torch.zeros(3)}, path)
    assert "not a checkpoint of audiovae" in refusal(path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_formats_are_refused_in_words(path: Path, version: int):
    rewrite(path, format=f"audiovae/{version}")
    assert "made by an older audiovae" in refusal(path)


def test_newer_format_is_refused_in_words(path: Path):
    rewrite(path, format="audiovae/5")
    assert "made by a newer audiovae: format audiovae/5, this one reads up to audiovae/4" in refusal(path)


@pytest.mark.parametrize("field", ["config", "facts"])
def test_missing_and_broken_header_fields_are_refused(path: Path, field: str):
    rewrite(path, **{field: "{"})
    assert field in refusal(path)
    rewrite(path, **{field: ""})
    assert f"its header has no {field}" in refusal(path)


def test_unknown_setting_is_named(path: Path):
    config = json.loads(TINY.model_dump_json())
    config["model"]["depth"] = 3
    rewrite(path, config=json.dumps(config))
    assert "model.depth" in refusal(path)


def test_header_that_lies_about_shapes_is_refused(path: Path):
    lying = TINY.model_copy(update={"model": TINY.model.model_copy(update={"bottleneck_width": 24})})
    rewrite(path, config=lying.model_dump_json())
    assert "has shape" in refusal(path)


def test_header_that_claims_a_giant_allocates_nothing(path: Path):
    config = json.loads(TINY.model_dump_json())
    config["model"]["bottleneck_width"] = 10**9
    rewrite(path, config=json.dumps(config))
    assert "bottleneck_width" in refusal(path)
    config["model"] |= {"bottleneck_width": 16384, "latent_channels": 512}
    rewrite(path, config=json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "has shape" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; the model would have gigabytes


def test_missing_extra_and_damaged_tensors_are_named(path: Path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = "model.decoder.embed.weight"
    save(path, {key: value for key, value in tensors.items() if key != name}, metadata)
    assert "decoder.embed.weight is missing" in refusal(path)
    save(path, tensors | {"model.surplus": torch.zeros(1)}, metadata)
    assert "surplus is unexpected" in refusal(path)
    save(path, tensors | {name: torch.full_like(tensors[name], float("nan"))}, metadata)
    assert "not all finite" in refusal(path)


def test_equal_models_are_equal_bytes_that_others_may_read(path: Path, model: VAE, tmp_path: Path):
    prior = load_checkpoint(path).prior
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, model=model, prior=prior, facts=FACTS)
    assert again.read_bytes() == path.read_bytes()
    plain = tmp_path / "plain"
    plain.touch()
    assert again.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_a_single_changed_bit_is_noticed(path: Path, where: float):
    data = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(data[:8], "little")
    data[begin + int(where * (len(data) - begin))] ^= 0x40
    path.write_bytes(data)
    assert "damaged or tampered with" in refusal(path)


@pytest.mark.parametrize("version", ["0", "9" * 5000, "x", "-1"])
def test_versions_that_are_none_are_refused(path: Path, version: str):
    rewrite(path, format=f"audiovae/{version}")
    assert "not a checkpoint of audiovae" in refusal(path)


@pytest.mark.parametrize("facts", ["[" * 100_000, '{"version":"1","step":1e999,"data":"","license":"","metrics":{}}'])
def test_facts_that_break_a_parser_are_refused(path: Path, facts: str):
    rewrite(path, facts=facts)
    assert "facts can't be read" in refusal(path)
