"""An evaluation of a tiny model: what is compared with what, what is kept, what is said of all clips together."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import noise, silence, stereo, sweep, tone
from tiny_codec import TINY, save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.errors import InputError
from audiovae.evaluation import clips as clips_module
from audiovae.evaluation import in_betweens, records, run
from audiovae.evaluation.baselines import pca_codec
from audiovae.evaluation.clips import Clip, example_folder, find_clips, load_clip
from audiovae.evaluation.in_betweens import clip_middles, neighbours
from audiovae.evaluation.latent_map import latent_map, principal_axes
from audiovae.evaluation.latent_use import latent_use
from audiovae.evaluation.realism import fit_prior, realism
from audiovae.evaluation.records import TRUE_BANDS, TRUE_MAGNITUDES, record_clip
from audiovae.evaluation.run import PCA, evaluate, with_baselines
from audiovae.evaluation.summary import Summary
from audiovae.evaluation.tables import lecture_table, truth_table
from audiovae.latents import Latents

ROOT = Path(__file__).parents[1]
RATE = 44_100


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good clips and three that can't be used."""
    clips = tmp_path / "sounds"
    clips.mkdir()
    Audio(sweep(samples=RATE), RATE).save(clips / "a.wav")
    Audio(stereo(samples=26_000), 22_050).save(clips / "b.flac")
    Audio(tone(samples=2_000), RATE).save(clips / "short.wav")
    Audio(silence(samples=RATE), RATE).save(clips / "silent.wav")
    (clips / "text.wav").write_text("no sound")
    return clips


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of tones of each kind, one of chords, one of phrases, and no package that isn't ours."""
    for module in (in_betweens, run):
        monkeypatch.setattr(module, "TONE_PAIRS", 1)
        monkeypatch.setattr(module, "CHORD_PAIRS", 1)
        monkeypatch.setattr(module, "PHRASE_PAIRS", 1)
    for module in (records, run):
        monkeypatch.setattr(module, "why_not_musicnn", lambda: "musicnn is left out")
        monkeypatch.setattr(module, "why_not_zimtohrli", lambda: "zimtohrli is left out")


def latents_of(mean: torch.Tensor, logvar: torch.Tensor | None = None) -> Latents:
    samples = (mean.shape[2] - 1) * 4096
    return Latents(mean, logvar, "made", RATE, samples, -20.0, "none")


def errors_of(row: dict[str, Summary]) -> str:
    return row["truth_relative_error"].text()


def test_an_evaluation_measures_models_and_ceilings_and_lists_bad_clips(
    codec: Codec, folder: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    found = evaluate(
        with_baselines(codec, {}),
        find_clips([folder]),
        tmp_path / "kept",
        quality="draft",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [record.clip.name for record in found.records] == ["a", "b"]
    reasons = {Path(failure.clip).name: failure.reason for failure in found.failures}
    assert reasons["short.wav"].startswith("shorter than 0.5 s")
    assert reasons["silent.wav"].startswith("silent")
    assert reasons["text.wav"].startswith("damaged or not audio")
    (group,) = found.reconstruction.values()
    assert list(group) == ["VAE", PCA, TRUE_BANDS, TRUE_MAGNITUDES]
    error = {way: measures["log_mel_error_db"].mean for way, measures in group.items()}
    assert error[TRUE_MAGNITUDES] < error[TRUE_BANDS] < error["VAE"]
    assert group["VAE"]["fd_musicnn"].count == 0
    assert found.not_measured == ["Zimtohrli MOS: zimtohrli is left out", "FD-MusiCNN: musicnn is left out"]
    assert found.tones["different pitch"]["dB average"]["truth_relative_error"].mean == 1
    assert found.tones["different pitch"]["truth"]["truth_relative_error"].mean == 0
    shown = ("", ", pitch only", ", linear", ", linear, unaligned")
    ways = [f"{model}{way}" for model in ("VAE", PCA) for way in shown]
    assert list(found.clip_pairs) == ways
    # What an untrained decoder makes has no onsets: "pitch only" is then the whole.
    errors = [found.phrases[way]["truth_relative_error"].mean for way in ways if not way.endswith("pitch only")]
    assert len(set(errors)) == len(errors)
    assert set(found.realism) == {"VAE", PCA}
    assert "second_pitch_salience" not in found.chords["truth"].keys() | found.phrases["truth"].keys()
    assert {f"in-betweens{way}" for way in shown} < set(found.realism["VAE"])
    assert found.transposed["dB average"]["truth_relative_error"].count == 2
    assert found.transposed["aligned bands, no model"]["truth_relative_error"].mean < 1
    assert seen == [(done, 18) for done in range(19)]
    side_by_side, truth = lecture_table(found), truth_table(found)
    assert side_by_side.header[1:] == [PCA, "VAE"]
    assert side_by_side.rows[0][1:] == [group[name]["log_mel_error_db"].text() for name in (PCA, "VAE")]
    assert side_by_side.rows[1][2] == errors_of(found.chords["VAE"])
    assert side_by_side.rows[4][2] == errors_of(found.phrases["VAE"])
    changes = {row[0]: row[1:] for row in side_by_side.rows if "change a frame" in row[0]}
    clips = f"change a frame, dB (clips: {found.real_change_db:.2f})"
    drawn = found.realism["VAE"]["new sounds, mixture"].change_db
    assert changes[f"new sounds, mixture: {clips}"][1] == f"{drawn:.2f}" and f"reconstructions: {clips}" in changes
    assert [row[1:] for row in truth.rows if row[0] == "dB average"] == [["1.00", "1.00", "1.00", "1.00 ± 0.00"]]
    assert ["VAE, pitch only", "–", "–", errors_of(found.phrases["VAE, pitch only"]), "–"] in truth.rows


def test_a_clip_that_vanishes_once_it_is_measured_is_listed(codec: Codec, folder: Path, tmp_path: Path) -> None:
    clips = find_clips([folder / "a.wav", folder / "b.flac"])
    seen: list[tuple[int, int]] = []

    def remove(done: int, total: int) -> None:
        seen.append((done, total))
        if done == len(clips):
            (folder / "b.flac").unlink()

    found = evaluate(with_baselines(codec, {}), clips, tmp_path / "kept", quality="draft", progress=remove)
    assert [record.clip.name for record in found.records] == ["a", "b"]
    (failure,) = found.failures
    assert failure.clip == str(folder / "b.flac")
    assert failure.reason.startswith("measured, but not transposed: ")
    assert found.transposed["truth"]["truth_relative_error"].count == 1
    assert seen[-1] == (len(seen) - 1, len(seen) - 1)


def test_what_is_done_is_not_done_again_unless_it_changed(
    codec: Codec, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, kept = with_baselines(codec, {}), tmp_path / "kept"
    clips = find_clips([folder / "a.wav", folder / "b.flac"])
    loaded: list[str] = []

    def counted(clip: Clip, codec: Codec) -> Audio:
        loaded.append(clip.name)
        return load_clip(clip, codec)

    def measured(*, force: bool = False) -> list[dict[str, dict[str, float]]]:
        loaded.clear()
        return [record_clip(clip, models, kept, quality="draft", shown=False, force=force).measures for clip in clips]

    monkeypatch.setattr(records, "load_clip", counted)
    first = measured()
    assert measured() == first and not loaded
    files = sorted(kept.iterdir())
    files[0].write_bytes(b"damaged")
    assert measured() == first and len(loaded) == 1
    Audio(noise(samples=RATE), RATE).save(folder / "b.flac", force=True)
    changed = measured()
    assert loaded == ["b"]
    assert changed[0] == first[0] and changed[1] != first[1]
    measured(force=True)
    assert loaded == ["a", "b"]
    monkeypatch.setattr(records, "_code", lambda: "another version of this package")
    measured()
    assert loaded == ["a", "b"]


def test_an_interrupt_keeps_what_is_done(codec: Codec, folder: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        evaluate(with_baselines(codec, {}), find_clips([folder]), kept, quality="draft", progress=stop)
    assert len(list(kept.iterdir())) == 1


def test_no_usable_clip_is_an_error(codec: Codec, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"silent\.wav: silent, .* \(none of 1 clips could be used\)"):
        evaluate(with_baselines(codec, {}), find_clips([folder / "silent.wav"]), tmp_path / "kept")


def test_the_pca_is_the_models_own_components(codec: Codec) -> None:
    pca = pca_codec(codec)
    assert pca is not None and pca.fingerprint != codec.fingerprint
    latents = pca.encode(Audio(sweep(), RATE))
    assert latents.mean.shape == codec.encode(Audio(sweep(), RATE)).mean.shape
    components = codec.checkpoint.model.components
    torch.testing.assert_close(pca.spectrogram_of(latents), components.decode(latents.mean)[:, 0])
    # A projection: what was decoded is encoded as the same.
    again = pca.checkpoint.model.encode(pca.spectrogram_of(latents)[:, None])
    torch.testing.assert_close(again.mean, latents.mean, atol=1e-4, rtol=1e-4)


def test_components_that_were_never_fitted_are_no_baseline(codec: Codec) -> None:
    model = type(codec.checkpoint.model)(TINY)
    bare = replace(codec, checkpoint=replace(codec.checkpoint, model=model))
    assert pca_codec(bare) is None
    assert list(with_baselines(bare, {})) == ["VAE"]


def test_names_of_models_are_their_own(codec: Codec) -> None:
    assert list(with_baselines(codec, {"AE": codec})) == ["VAE", PCA, "AE"]
    for name in ("VAE", "PCA", "target", "true bands", "truth", "waveform mix"):
        with pytest.raises(InputError, match=f"--compare {name}: the name is taken"):
            with_baselines(codec, {name: codec})
    with pytest.raises(InputError, match="--compare VAE, linear: a name without a comma is needed"):
        with_baselines(codec, {"VAE, linear": codec})


def test_a_model_of_another_front_end_is_not_compared(codec: Codec) -> None:
    spectrogram = codec.config.spectrogram.model_copy(update={"hop_length": 256})
    config = codec.config.model_copy(update={"spectrogram": spectrogram})
    other = replace(codec, checkpoint=replace(codec.checkpoint, config=config))
    with pytest.raises(InputError, match="--compare other: works on 44100 Hz, windows of 2048 and hops of 256 samples"):
        with_baselines(codec, {"other": other})


def test_latents_that_are_the_prior_tell_nothing_and_a_constant_channel_is_not_active() -> None:
    nothing = latents_of(torch.zeros(1, 8, 20), torch.zeros(1, 8, 20))
    use = latent_use(TINY, [nothing, nothing])
    assert (use.kl_bits_a_second, use.active_channels, use.channels) == (0, 0, 8)
    mean = torch.zeros(1, 8, 20)
    mean[:, 0] = 2.0  # KL of N(2, 1) to N(0, 1): 2 nats
    mean[:, 1, ::2] = 1.0  # half of the frames: 0.5 nats
    use = latent_use(TINY, [latents_of(mean, torch.zeros(1, 8, 20))])
    assert use.kl_bits_a_second == pytest.approx(2.25 / math.log(2) * TINY.latent_rate)
    assert use.active_channels == 1
    assert use.values_a_second == pytest.approx(8 * TINY.latent_rate)


def test_an_autoencoder_has_no_kl() -> None:
    plain = TINY.model_copy(update={"model": TINY.model.model_copy(update={"variational": False})})
    assert math.isnan(latent_use(plain, [latents_of(torch.zeros(1, 8, 4), torch.zeros(1, 8, 4))]).kl_bits_a_second)


def test_reconstructions_of_what_the_model_made_are_real(codec: Codec) -> None:
    """Sounds that are the decoder's own are at distance 0 from themselves, samples of another prior are not."""
    from audiovae.evaluation.frechet import mean_change_db, mfcc_features

    drawn = [latents_of(codec.prior.sample(20, count=1, generator=torch.Generator().manual_seed(n))) for n in (0, 1, 2)]
    made = [codec.spectrogram.magnitude(codec.spectrogram_of(one)[0]) for one in drawn]
    real = torch.cat([mfcc_features(one, sample_rate=RATE, hop_length=512) for one in made])
    drawn = [replace(one, checkpoint=codec.fingerprint) for one in drawn]
    middles = clip_middles(codec, drawn)
    found = realism(codec, fit_prior(drawn, torch.ones(drawn[0].mean.shape[1])), drawn, middles, real)
    assert found["reconstructions"].fd_mfcc == pytest.approx(0, abs=1e-3)
    assert found["reconstructions"].change_db == pytest.approx(mean_change_db(real))
    assert found["new sounds, mixture"].fd_mfcc > 1 and found["new sounds, N(0, I)"].fd_mfcc > 1
    assert math.isnan(found["new sounds, flow"].fd_mfcc) and math.isnan(found["new sounds, flow"].change_db)
    assert realism(codec, codec.prior.with_flow(), drawn, middles, real)["new sounds, flow"].fd_mfcc > 0


def test_neighbours_are_pairs_round_the_list() -> None:
    some = [latents_of(torch.zeros(1, 8, 2)) for _ in range(3)]
    pairs = neighbours(some, most=3)
    assert [(some.index(a), some.index(b)) for a, b in pairs] == [(0, 1), (1, 2), (2, 0)]
    assert len(neighbours(some[:2], most=3)) == 1 and neighbours(some[:1], most=3) == []


def test_fewer_neighbours_are_spread_over_the_whole_list() -> None:
    some = [latents_of(torch.full((1, 8, 2), float(place))) for place in range(36)]
    first = [float(a.mean[0, 0, 0]) for a, _ in neighbours(some, most=8)]
    assert first == [0, 5, 10, 15, 20, 25, 30, 35]


def test_principal_axes_are_where_the_points_vary() -> None:
    points = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 5, 0.1, 2, 0.1]) + 7
    centre, axes = principal_axes(points)
    torch.testing.assert_close(centre, points.mean(0))
    assert axes[:, 0].abs().argmax() == 1 and axes[:, 1].abs().argmax() == 3


def test_the_latent_map_has_a_panel_for_each_model_and_a_colour_for_each_label() -> None:
    clips = [latents_of(torch.randn(1, 8, 30) + 4 * n) for n in range(3)]
    one = latent_map({"VAE": clips}, ["a", "b", "c"])
    two = latent_map({"VAE": clips, "PCA": clips}, ["a", "b", "c"])
    assert two.width > one.width + 300 and two.height == one.height
    dots = {colour for _, colour in one.crop((40, 40, 420, 420)).getcolors(1 << 20)}
    assert len(dots) >= 5  # background, N(0, I), three labels


def test_clips_of_a_folder_are_limited_evenly_and_named_after_it(tmp_path: Path) -> None:
    test = tmp_path / "music" / "test"
    test.mkdir(parents=True)
    for index in range(9):
        (test / f"{index}.wav").touch()
    found = find_clips([test], limit=3)
    assert [clip.name for clip in found] == ["0", "4", "8"]
    assert {clip.group for clip in found} == {"music/test"}
    assert [clip.name for clip in find_clips([test, test / "4.wav"])] == [str(index) for index in range(9)]
    with pytest.raises(InputError, match="missing: no such file or folder"):
        find_clips([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no audio files in it"):
        find_clips([tmp_path / "empty"])


def test_a_clip_comes_mono_at_the_models_rate_and_level(codec: Codec, folder: Path) -> None:
    from audiovae.level import level_db

    audio = load_clip(Clip(folder / "b.flac", "b", "clips"), codec)
    assert (audio.channels, audio.sample_rate, audio.samples) == (1, RATE, 52_000)
    assert level_db(audio.waveform, 44_100) == pytest.approx(-20, abs=0.05)


def test_the_examples_are_found_and_those_in_the_wheel_are_small_and_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert example_folder() == ROOT / "data" / "examples"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    clips = [ROOT / path for path in included if path.endswith(".flac")]
    assert len(clips) >= 3 and sum(path.stat().st_size for path in clips) < 1_000_000
    licences = {one["file"]: one["licence"] for one in json.loads((example_folder() / "examples.json").read_text())}
    assert {licences[path.name].split()[0] for path in clips} <= {"MIT", "CC0-1.0"}
    monkeypatch.setattr(clips_module, "EXAMPLE_FOLDERS", (Path("nowhere"),))
    with pytest.raises(InputError, match="examples: none are installed here"):
        example_folder()
