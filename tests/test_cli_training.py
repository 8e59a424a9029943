"""``audiovae train`` and ``train-prior``."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from commands import call, misuse, python, refuse, work
from conftest import noise, tone
from tiny_codec import save_tiny

from audiovae import __version__
from audiovae.audio import Audio
from audiovae.checkpoint import load_checkpoint
from audiovae.cli import app
from audiovae.spectrogram import Spectrogram
from audiovae.tensor_file import read_tensors
from audiovae.training import loop, prior, validation
from audiovae.training import run as training
from audiovae.training.data import open_cache
from audiovae.training.encoded import latents_of


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of eight steps for the model of ``save_tiny``, and little to validate on."""
    monkeypatch.setattr(validation, "SEGMENTS", 4)
    monkeypatch.setattr(loop, "PRIOR_SEGMENTS", 16)
    monkeypatch.setattr(loop, "LAST_PRIOR_SEGMENTS", 16)
    path = tmp_path / "quick.toml"
    path.write_text(
        "[spectrogram]\nn_bands = 64\n"
        "[model]\nlatent_channels = 8\nchannels = [8, 8, 8]\nband_strides = [4, 2, 2]\n"
        "encoder_blocks = [0, 1, 1]\ndecoder_blocks = [1, 1, 1]\nbottleneck_width = 16\nbottleneck_stride = 1\n"
        "[data]\nsegment_latent_frames = 4\nworkers = 0\nvalidation_share = 0.0\n"
        "[training]\nsteps = 8\nbatch_size = 2\nwarmup_steps = 1\nbeta_warmup_steps = 4\n"
        "log_every = 2\nvalidate_every = 8\ncheckpoint_every = 2\n"
    )
    return path


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Two recordings to train on, and one that is none."""
    folder = tmp_path / "music"
    folder.mkdir()
    Audio(tone(samples=60_000), 44_100).save(folder / "a.wav")
    Audio(noise(samples=60_000), 44_100).save(folder / "b.wav")
    (folder / "text.wav").write_text("no audio")
    return folder


def test_train_makes_a_model_that_the_other_commands_take(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train", quick, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=4")
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "2 files to train on, 0 held out, 1 skipped"
    assert lines[1].startswith("skipped text.wav: damaged or not audio")
    assert "loss" in lines[2] and "dB" in lines[2] and "KL" in lines[2]
    assert lines[-1].startswith(f"wrote {run}/model.safetensors: step 4, error on training audio ")
    facts = json.loads(call("info", run / "model.safetensors", "--json").stdout)
    assert (facts["step"], facts["version"], facts["latent_channels"]) == (4, __version__, 8)
    assert "music: 2 files" in facts["data"]
    work(
        "generate", "--count", 1, "--duration", 0.2, "--checkpoint", run / "model.safetensors", "--out", tmp_path / "g"
    )
    assert refuse(*words).startswith(f"{run}: not empty (--resume {run} continues")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    line = refuse(*[mine if word == run else word for word in words])
    assert line.startswith(f"{mine}: not empty, and no run: use another folder")
    result = call("train", "--resume", run, "--set", "training.steps=6", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 6
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]
    assert "nothing left to do" in work("train", "--resume", run, "--device", "cpu", "--quiet")


def test_training_ends_in_time_and_says_how_it_goes_on(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    last = work("train", quick, "--data", music, "--out", run, "--device", "cpu", "--quiet", "--minutes", 0)
    assert last == f"{run}: time is up at step 1 of 8, state saved: --resume {run} goes on"
    result = call("train", "--resume", run, "--device", "cpu", "--json", "--minutes", 60)
    facts = json.loads(result.stdout)
    assert (facts["steps"], facts["finished"], facts["written"]) == (8, True, [f"{run}/model.safetensors"])


def test_a_model_is_tuned_only_by_a_config_that_describes_it(quick: Path, music: Path, tmp_path: Path) -> None:
    run, start = tmp_path / "run", save_tiny(tmp_path / "tiny.safetensors")
    words = ("train", quick, "--data", music, "--device", "cpu", "--set", "training.steps=2", "--out")
    result = call(*words, run, "--from", start)
    assert result.exit_code == 0, result.stderr
    assert "bundled: its spectrogram.n_bands is 256, not 64: " in refuse(
        *words, tmp_path / "other", "--from", "bundled"
    )
    assert "leave out CONFIG, --out, --from and --force" in misuse("train", "--resume", run, "--from", start)


def test_a_vaes_weights_make_an_autoencoder_and_not_the_other_way_round(quick: Path, music: Path, tmp_path: Path):
    run, start = tmp_path / "run", save_tiny(tmp_path / "tiny.safetensors")
    words = ("train", quick, "--data", music, "--device", "cpu", "--set", "training.steps=2", "--out")
    result = call(*words, run, "--from", start, "--set", "model.variational=false")
    assert result.exit_code == 0, result.stderr
    autoencoder = run / "model.safetensors"
    assert "its model.variational is False, not True: " in refuse(*words, tmp_path / "other", "--from", autoencoder)


def test_train_by_force_replaces_the_run_only(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("mine")
    (run / "log.jsonl").write_text('{"step": 1, "loss": 0}\n')
    words = ("train", quick, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=2", "--force")
    assert refuse(*words) == f"{run}/log.jsonl: is there, and not a run's: use another folder"
    (run / "config.json").write_text("{}")
    assert call(*words).exit_code == 0
    assert (run / "mine.txt").read_text() == "mine"
    assert json.loads((run / "log.jsonl").read_text().splitlines()[0])["step"] == 2


def test_an_interrupted_training_says_how_to_resume(
    quick: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audiovae.training.loop import Trainer

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupt)
    words = ("train", quick, "--data", music, "--out", tmp_path / "run", "--device", "cpu", "--quiet")
    assert "interrupted" in refuse(*words, code=130)


def trained(quick: Path, music: Path, run: Path) -> Path:
    """A finished run of two steps."""
    words = ("--data", music, "--out", run, "--device", "cpu", "--quiet", "--set", "training.steps=2")
    work("train", quick, *words)
    return run


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few segments and a narrow network to learn a prior with."""
    monkeypatch.setattr(prior, "SEGMENTS", 24)
    monkeypatch.setattr(prior, "HELD_OUT_SEGMENTS", 8)
    monkeypatch.setattr("audiovae.model.flow.WIDTH", 48)


def test_a_trained_model_gets_a_prior_that_knows_more(
    quick: Path, music: Path, tmp_path: Path, few: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(quick, music, tmp_path / "run")
    model, words = run / "model.safetensors", ("train-prior", run, "--device", "cpu", "--quiet")
    mixture = model.read_bytes()
    older = "prior-0123456789abcdef.safetensors"
    for left in (older, f".{older}.1.tmp", "prior-of-monday.safetensors"):
        (run / left).touch()
    assert ": time is up, state saved, the same command goes on: step 0, error 1.000" in work(*words, "--minutes", 0)
    assert model.read_bytes() == mixture
    (run / "prior-of-monday.safetensors").unlink()  # a user's own
    (state,) = run.glob("*prior*")
    assert state.name != older
    assert work(*words, "--steps", 24).startswith(f"wrote {model}: step 24, error ")
    loaded, info = load_checkpoint(model), json.loads(call("info", model, "--json").stdout)
    assert loaded.prior.flow is not None
    assert (info["prior"], info["step"]) == ("mixture and flow", 2)
    assert 0 < info["metrics"]["prior_error"] < 1
    again = json.loads(call(*words[:-1], "--steps", 24, "--json").stdout)
    assert (again["finished"], again["prior_error"]) == (True, pytest.approx(info["metrics"]["prior_error"], abs=1e-4))
    work("generate", "--count", 1, "--duration", 0.3, "--checkpoint", model, "--out", tmp_path / "new", "--quiet")
    work("train", "--resume", run, "--set", "training.steps=3", "--device", "cpu", "--quiet")
    assert "train-prior" in caplog.text
    assert load_checkpoint(model).prior.flow is None
    words = ("train", quick, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=2", "--force")
    assert call(*words).exit_code == 0
    assert not list(run.glob("prior-*"))


def test_a_prior_that_was_stopped_is_the_same_bit_for_bit(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = trained(quick, music, tmp_path / "run"), ("--device", "cpu", "--quiet", "--steps", 6)
    copy = shutil.copytree(run, tmp_path / "copy")
    work("train-prior", run, *words)
    monkeypatch.setattr(prior, "SETTINGS", prior.SETTINGS.model_copy(update={"checkpoint_every": 2}))
    step, interrupted_at = prior.FlowTrainer.step, [3]

    def interrupt(self: prior.FlowTrainer) -> torch.Tensor:
        if self.position.step in interrupted_at:
            interrupted_at.clear()
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(prior.FlowTrainer, "step", interrupt)
    line = refuse("train-prior", copy, *words, code=130)
    assert (
        line == f"{copy}: interrupted after step 3; the same command goes on from the last state saved (every 2 steps)"
    )
    work("train-prior", copy, *words)
    assert (copy / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_finished_model_gets_a_prior_of_other_sounds_and_keeps_its_latents(
    quick: Path, music: Path, tmp_path: Path, few: None
) -> None:
    start, run = trained(quick, music, tmp_path / "first") / "model.safetensors", tmp_path / "run"
    other = tmp_path / "other"
    other.mkdir()
    Audio(noise(samples=90_000, seed=5), 44_100).save(other / "c.wav")
    words = ("train-prior", run, "--from", start, "--device", "cpu", "--quiet")
    assert refuse(*words) == f"{start}: which sounds its prior is to be of is not said: --data DIR"
    assert not run.exists()
    words = (*words, "--data", other, "--cache", tmp_path / "cache-of-other")
    assert "a prior has no settings but those of data" in misuse(*words, "--set", "training.batch_size=2")
    assert "data.shares" in refuse(*words, "--set", "data.shares={violin=0.5}", "--minutes", 0)
    assert ": time is up, state saved" in work(*words, "--minutes", 0)
    assert work(*words, "--steps", 12).startswith(f"wrote {run}/model.safetensors: step 12, error ")
    before, after = load_checkpoint(start), load_checkpoint(run / "model.safetensors")
    assert after.fingerprint == before.fingerprint
    assert after.prior.flow is not None and not torch.equal(after.prior.centre, before.prior.centre)
    cache = open_cache(other, tmp_path / "cache-of-other", after.config)
    spectrogram = Spectrogram(after.config.spectrogram)
    latents = latents_of(after.model, spectrogram, cache, "train", segments=24, dtype=torch.float16)
    torch.testing.assert_close(after.prior.mean, latents.float().mean((0, 2)), atol=1e-3, rtol=1e-3)
    assert work("train-prior", run, "--device", "cpu", "--quiet", "--steps", 12).startswith("wrote ")
    another = save_tiny(tmp_path / "tiny.safetensors")
    assert refuse(*words[:2], "--from", another, *words[4:]) == (
        f"{run}/model.safetensors: is another model than {another}: use another folder"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert "full: not empty" in refuse("train-prior", tmp_path / "full", *words[2:])


def test_a_model_with_a_flow_is_taught_other_sounds_from_there(
    quick: Path, music: Path, tmp_path: Path, few: None
) -> None:
    first = trained(quick, music, tmp_path / "first")
    work("train-prior", first, "--device", "cpu", "--quiet", "--steps", 24)
    flow = load_checkpoint(first / "model.safetensors").prior.flow
    words = ("train-prior", tmp_path / "run", "--from", first / "model.safetensors", "--data", music, "--device", "cpu")
    told = json.loads(call(*words, "--steps", 1, "--json").stdout)
    assert told["prior_error"] < 0.99  # a new one's would be 1 after a step
    tuned = load_checkpoint(tmp_path / "run" / "model.safetensors").prior.flow
    assert flow is not None and tuned is not None
    assert torch.equal(tuned.mean, flow.mean)
    assert not torch.equal(tuned.out.weight, flow.out.weight)


def test_a_prior_goes_on_with_the_kinds_that_its_flow_knows(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(quick, music, tmp_path / "run")
    words = ("train-prior", run, "--device", "cpu", "--quiet")
    work(*words, "--minutes", 0)
    monkeypatch.setattr(prior, "fit_mixture", lambda *_: pytest.fail("fitted once more"))
    assert work(*words, "--steps", 6).startswith("wrote ")
    assert "of other training data" in refuse(*words, "--steps", 8, "--segments", 3)


def test_a_prior_that_learnt_nothing_is_not_taken(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(quick, music, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    monkeypatch.setattr(prior.FlowTrainer, "error", lambda *_: 1.25)
    last = work("train-prior", run, "--device", "cpu", "--quiet", "--steps", 1)
    assert last == f"{run}: nothing was learnt, the model keeps its mixture: step 1, error 1.250 of Gaussians'"
    assert (run / "model.safetensors").read_bytes() == before


def test_the_prior_of_what_is_no_run_is_refused(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a run that can be resumed: it has no config.json" in refuse("train-prior", tmp_path)
    run = trained(quick, music, tmp_path / "run")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prior.FlowTrainer, "step", interrupt)
    line = refuse("train-prior", run, "--device", "cpu", "--quiet", code=130)
    assert line == f"{run}: interrupted after step 0; no state was saved yet"
    assert refuse("train-prior", run, "--data", tmp_path / "none").endswith("none: no such folder")
    (run / "model.safetensors").unlink()
    assert refuse("train-prior", run, "--device", "cpu") == f"{run}/model.safetensors: no such file"


def start_training(*words: object) -> subprocess.Popen[str]:
    """A training in a group of processes of its own."""
    command = [sys.executable, "-m", "audiovae", "train", *map(str, words), "--set", "training.steps=100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> list[str]:
    """What a process that is to end says on stderr; all of its group is gone in any case."""
    try:
        return process.communicate(timeout=60)[1].splitlines(keepends=True)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_training_ends_with_its_state_saved_when_nobody_reads(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    often = ("--set", "training.checkpoint_every=100000", "--set", "training.validate_every=100000")
    with start_training(quick, "--data", music, "--out", run, *often) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if "/100000" in line)
        process.stdout.close()
        (line,) = ended(process)
    assert process.returncode == 1
    step = re.fullmatch(rf"audiovae: {run}: .* ended at step (\d+), state saved: --resume {run} goes on\n", line)
    assert step is not None and read_tensors(run / "state.safetensors", kind="state")[1]["step"] == step[1]


def test_a_signal_to_the_whole_group_ends_a_training_in_one_line(quick: Path, music: Path, tmp_path: Path) -> None:
    workers = ("--set", "data.workers=2")
    with start_training(quick, "--data", music, "--out", tmp_path / "run", *workers) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if "/100000" in line)
        os.killpg(process.pid, signal.SIGTERM)
        process.stdout.close()
        lines = ended(process)
    assert process.returncode == 130
    assert len(lines) == 1 and "interrupted after step" in lines[0], lines


def test_train_refuses_what_it_cannot_use(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rest = ("--data", music, "--out", run, "--device", "cpu")
    assert refuse("train", "nonsense", *rest).startswith("nonsense: neither a file nor a bundled config (")
    assert "training.speed" in refuse("train", quick, *rest, "--set", "training.speed=1")
    assert "section.field=value" in refuse("train", quick, *rest, "--set", "speed")
    assert refuse("train", quick, "--data", tmp_path / "none", "--out", run) == f"{tmp_path}/none: no such folder"
    assert "run: not a run that can be resumed: it has no config.json" in refuse("train", "--resume", run)
    assert "is missing" in misuse("train", quick, "--data", music)
    assert "CONFIG" in misuse("train", "--data", music, "--out", run)
    assert "such as --from bundled" in misuse("train", "finetune", *rest)
    assert "leave out CONFIG" in misuse("train", quick, "--resume", run)
    (tmp_path / "empty").mkdir()
    words = ("train", quick, "--data", tmp_path / "empty", "--out", run, "--device", "cpu")
    assert refuse(*words) == f"{tmp_path}/empty: no audio files in it"
    assert not run.exists()


def test_overrides_of_a_resumed_run_are_checked(quick: Path, music: Path, tmp_path: Path) -> None:
    run = training.new_run(str(quick), [], data=music, folder=tmp_path / "run")
    training._prepare_folder(run)
    again = training.resumed_run(run.folder, ["training.steps=99", "training.learning_rate=1e-5"])
    assert (again.config.training.steps, again.config.training.learning_rate) == (99, 1e-5)
    changed = {"steps": 99, "learning_rate": 1e-5}
    assert again.config == run.config.model_copy(update={"training": run.config.training.model_copy(update=changed)})
    assert (again.data, again.resumed) == (music, True)
    assert refuse("train", "--resume", run.folder, "--set", "training.steps=0").startswith("--set: training.steps: ")
    other = refuse("train", "--resume", run.folder, "--set", "model.latent_channels=9")
    assert other.startswith(f"{run.folder}: its model.latent_channels is 8, not 9: ")
    (run.folder / "config.json").write_text("{")
    assert refuse("train", "--resume", run.folder).startswith(f"{run.folder}/config.json: config: ")


def test_training_without_its_packages_says_what_to_install(
    quick: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None if name == "tensorboard" else object())
    line = refuse("train", quick, "--data", music, "--out", tmp_path / "run")
    assert line == "training needs more packages: pip install 'audiovae[train]'"


def test_a_plain_install_says_so_whatever_is_in_the_folder(music: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['accelerate'] = sys.modules['torch.utils.tensorboard'] = None\n"
        "from audiovae.cli import main; main()"
    )
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    for folder, words in (
        ("new", "training needs more packages: pip install 'audiovae[train]'"),
        ("used", "not empty"),
    ):
        ran = python("-c", code, "train", "tiny", "--data", music, "--out", tmp_path / folder)
        assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1 and words in ran.stderr


def test_no_path_is_refused_by_anything_but_our_own_words() -> None:
    paths = [
        option
        for command in app.registered_commands
        for annotation in get_type_hints(command.callback, include_extras=True).values()
        if "Path" in str(get_args(annotation)[:1])
        for option in annotation.__metadata__
    ]
    assert len(paths) > 15
    assert not [option.help for option in paths if option.parser is None]


@pytest.mark.parametrize("name", training.bundled_configs())
def test_bundled_configs_are_found_by_name_and_valid(name: str, music: Path, tmp_path: Path) -> None:
    run = training.new_run(name, [], data=music, folder=tmp_path / "run")
    assert run.config.training.steps > 0


def test_there_is_a_bundled_config_for_first_tries() -> None:
    assert "tiny" in training.bundled_configs()


@pytest.mark.slow
def test_two_processes_train_one_run(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "audiovae", "train", quick)
    words = (*words, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=4")
    ran = python(*words, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert sum(line.startswith("wrote ") for line in lines) == 1
    assert sum("files to train on" in line for line in lines) == 1
    assert (run / "model.safetensors").is_file()


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are text there")
def test_file_names_that_are_not_text_work(tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "tiny.safetensors")
    name = os.fsdecode(b"caf\xe9.wav")
    Audio(tone(), 44100).save(tmp_path / name)
    Audio(tone(), 44100).save(tmp_path / "two\nlines.wav")
    for arguments in (
        ["reconstruct", name, "--out", os.fsdecode(b"out\xff.wav")],
        ["encode", name, "--out", "latents"],
        ["generate", "--count", "1", "--like", name, "--out", "like"],
        ["interpolate", name, "two\nlines.wav", "--steps", "2", "--out", "between"],
        ["reconstruct", os.fsdecode(b"missing\xff.wav"), "--out", "b.wav"],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "audiovae", *arguments, "--checkpoint", checkpoint],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in result.stderr
        assert result.returncode == (1 if b"missing" in os.fsencode(arguments[1]) else 0), result.stderr
