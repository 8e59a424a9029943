"""``audiovae train`` and ``train-prior``."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from commands import call, misuse, python, refuse, work
from conftest import tone
from tiny_codec import save_tiny

from audiovae import __version__
from audiovae.audio import Audio
from audiovae.cli import app
from audiovae.tensor_file import read_tensors
from audiovae.training import run as training


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


def test_a_tuned_model_says_what_it_had_learnt_before(quick: Path, music: Path, tmp_path: Path) -> None:
    def data(run: Path) -> str:
        return json.loads(call("info", run / "model.safetensors", "--json").stdout)["data"]

    first, tuned = tmp_path / "first", tmp_path / "tuned"
    words = ("train", quick, "--data", music, "--device", "cpu", "--set", "training.steps=2", "--out")
    assert call(*words, first).exit_code == call(*words, tuned, "--from", first / "model.safetensors").exit_code == 0
    assert data(tuned) == f"{data(first)}; tuned on {data(first)}"
    assert call("train", "--resume", tuned, "--set", "training.steps=3", "--device", "cpu").exit_code == 0
    assert data(tuned) == f"{data(first)}; tuned on {data(first)}"


def test_tuning_says_what_the_errors_were_before(quick: Path, music: Path, tmp_path: Path) -> None:
    """Also where it was interrupted and goes on; and in plain words where it did harm."""
    start, data, run = save_tiny(tmp_path / "tiny.safetensors"), tmp_path / "data", tmp_path / "run"
    for split in ("train", "valid"):
        shutil.copytree(music, data / split)
    words = ("train", quick, "--data", data, "--device", "cpu", "--quiet", "--out", run, "--from", start)
    assert "time is up" in work(*words, "--minutes", 0)
    last = work("train", "--resume", run, "--device", "cpu", "--quiet")
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    first, final = [row["validation"] for row in rows if "validation" in row and row["step"] in (0, 8)]
    assert final["mel_error_db"] < first["mel_error_db"]
    before = f"before tuning {first['mel_error_db']:.3f} and {first['error_db']:.3f}"
    assert last.endswith(f"{final['mel_error_db']:.3f} dB in mels, {final['error_db']:.3f} in bands ({before})")
    harm = ("--force", "--set", "training.learning_rate=1.0", "--set", "training.warmup_steps=0")
    assert work(*words, *harm).endswith(f"({before}: better before, give it more sounds or fewer steps)")


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


def test_signals_to_the_whole_group_end_a_training_in_one_line(quick: Path, music: Path, tmp_path: Path) -> None:
    workers = ("--set", "data.workers=2")
    with start_training(quick, "--data", music, "--out", tmp_path / "run", *workers) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if "/100000" in line)
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.05)  # its workers are being ended
        os.killpg(process.pid, signal.SIGINT)
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
    if sys.platform not in ("darwin", "win32"):
        odd = tmp_path / os.fsdecode(b"\xff")
        assert "has a name that is no text" in refuse("train", quick, "--data", music, "--out", odd)
        assert not odd.exists()
    assert not run.exists()


def test_overrides_of_a_resumed_run_are_checked(quick: Path, music: Path, tmp_path: Path) -> None:
    run = training.new_run(str(quick), [], data=music, folder=tmp_path / "run")
    training.prepare_folder(run)
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
    assert line == 'training needs more packages: pip install "audiovae[train]"'


def test_a_plain_install_says_so_whatever_is_in_the_folder(music: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['accelerate'] = sys.modules['torch.utils.tensorboard'] = None\n"
        "from audiovae.cli import main; main()"
    )
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    for folder, words in (
        ("new", 'training needs more packages: pip install "audiovae[train]"'),
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
