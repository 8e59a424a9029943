"""Where results go: whole or not at all, and never over what a user made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import misuse, names, python, refuse, work

from audiovae import codec
from audiovae.__main__ import main as start
from audiovae.audio import Audio, AudioWriter
from audiovae.cli.results import check_folder, result_folder
from audiovae.errors import InputError
from audiovae.whole_file import ABANDONED_AFTER_SECONDS, whole_file


@pytest.mark.parametrize("words", ["generate", "reconstruct x.wav", "encode x.wav", "decode x", "train base --data x"])
def test_an_empty_out_is_wrong_usage_and_not_the_working_folder(words: str) -> None:
    assert "'--out': is empty" in misuse(*words.split(), "--out", "")
    assert "name a file or folder of this machine" in misuse(*words.split(), "--out", "s3://bucket/new")
    assert not Path("s3:").exists()


def test_absurd_numbers_of_files_are_wrong_usage(clips: Path, tmp_path: Path) -> None:
    assert "10000" in misuse("generate", "--count", 10**9, "--out", tmp_path / "new")
    clip = clips / "a.wav"
    assert "1000" in misuse("interpolate", clip, clip, "--steps", 10**9, "--out", tmp_path / "new")


def test_a_link_that_leads_nowhere_is_replaced_only_by_force(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    out, clip = tmp_path / "out.wav", clips / "a.wav"
    out.symlink_to(tmp_path / "gone.wav")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "path.json").symlink_to(tmp_path / "gone.json")
    assert "exists already" in refuse("reconstruct", clip, "--out", out, "--checkpoint", checkpoint)
    assert "path.json" in refuse("interpolate", clip, clip, "--steps", 2, "--out", tmp_path / "some")
    assert out.is_symlink() and not out.exists()
    work("reconstruct", clip, "--out", out, "--checkpoint", checkpoint, "--quality", "draft", "--force")
    assert out.is_file() and not out.is_symlink() and not (tmp_path / "gone.wav").exists()


def test_results_are_replaced_only_by_force_and_nothing_else_is_touched(
    checkpoint: Path, clips: Path, tmp_path: Path
) -> None:
    words = ("interpolate", clips / "a.wav", clips / "b.wav", "--out", tmp_path, "--checkpoint", checkpoint)
    words = (*words, "--quality", "draft", "--steps")
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "01.wav").write_text("old")
    line = refuse(*words, 2)
    assert line == f"{tmp_path}: holds results already, such as 01.wav (use --force to overwrite)"
    assert names(tmp_path) == ["01.wav", "mine.txt"]
    work(*words, 2, "--force")
    assert names(tmp_path) == ["00.wav", "01.wav", "mine.txt", "path.json", "path.png", "path.wav"]
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert Audio.load(tmp_path / "01.wav").samples == 12_000


@pytest.mark.parametrize("command", ["interpolate", "generate", "decode"])
def test_an_output_folder_that_cannot_be_one_is_refused_before_any_work(
    checkpoint: Path, clips: Path, tmp_path: Path, command: str
) -> None:
    latents = tmp_path / "a.latents.safetensors"
    codec.load(checkpoint).encode(clips / "a.wav").save(latents)
    inputs = {"interpolate": [clips / "a.wav", clips / "b.wav"], "generate": [], "decode": [latents]}[command]
    (tmp_path / "file").write_text("mine")
    # The checkpoint isn't there: if it were looked for, the message would be another.
    words = (command, *inputs, "--checkpoint", "none.safetensors", "--out")
    assert refuse(*words, tmp_path / "file") == f"{tmp_path}/file: is a file, not a folder"
    assert refuse(*words, tmp_path / "file" / "x") == f"{tmp_path}/file/x: {tmp_path}/file is a file, not a folder"
    (tmp_path / "link").symlink_to("nowhere")
    assert refuse(*words, tmp_path / "link") == f"{tmp_path}/link: is a link that leads nowhere"
    (tmp_path / "link").unlink()
    assert refuse(*words, "/proc/x").startswith("/proc/x: can't be written: ")
    assert names(tmp_path) == ["a.latents.safetensors", "file"]


def test_a_failure_on_the_way_leaves_nothing(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = AudioWriter.write

    def fail(self: AudioWriter, waveform: torch.Tensor) -> None:
        if self.path.name == "02.wav":
            raise OSError(28, "No space left on device")
        write(self, waveform)

    monkeypatch.setattr(AudioWriter, "write", fail)
    words = ("--checkpoint", checkpoint, "--quality", "draft", "--out", tmp_path / "out")
    line = refuse("interpolate", clips / "a.wav", clips / "b.wav", *words)
    assert line == f"{tmp_path}/out: can't be written: No space left on device"
    assert not list(tmp_path.iterdir())


def test_an_interrupt_is_told_in_one_line(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(codec.Codec, "encode", interrupt)
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert refuse("interpolate", clips / "a.wav", clips / "b.wav", *words, code=130) == "interrupted"
    assert not list(tmp_path.iterdir())


def test_an_interrupt_before_there_are_commands_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("audiovae.cli.main", interrupt)
    with pytest.raises(SystemExit) as end:
        start()
    assert (end.value.code, capsys.readouterr()) == (130, ("", "audiovae: interrupted\n"))


def test_an_interrupt_while_libraries_load_is_answered() -> None:
    code = """
import signal
import sys

class Interrupting:
    came = False

    def find_spec(self, name, path=None, target=None):
        if name == "numpy.lib" and not self.came:
            self.came = True
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from audiovae.__main__ import main

main()
"""
    ran = python("-c", code, "info")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "audiovae: interrupted\n")


def test_an_interrupt_while_results_move_waits_until_all_are_there(tmp_path: Path) -> None:
    names_of_results = [f"{index}.txt" for index in range(3)]
    for name in names_of_results:
        (tmp_path / name).write_text("old")

    def moved(_path: Path, target: Path, rename: Any = Path.replace) -> Path:
        signal.raise_signal(signal.SIGINT)
        return rename(_path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", moved)
        with result_folder(tmp_path, names_of_results, force=True) as folder:
            for name in names_of_results:
                (folder / name).write_text("new")
    assert names(tmp_path) == names_of_results
    assert [(tmp_path / name).read_text() for name in names_of_results] == ["new"] * 3


def test_a_signal_to_end_leaves_nothing_half_made(checkpoint: Path, tmp_path: Path) -> None:
    words = (sys.executable, "-m", "audiovae", "generate", "--duration", "3000", "--checkpoint", str(checkpoint))
    process = subprocess.Popen([*words, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".audiovae-*")) and process.poll() is None:
        os.sched_yield()
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "audiovae: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_results_stay_when_nobody_reads_what_is_told(checkpoint: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = ("generate", "--count", "1", "--duration", "0.1", "--checkpoint", str(checkpoint), "--out", str(tmp_path))
    with os.fdopen(write, "w") as nobody:
        subprocess.run([sys.executable, "-m", "audiovae", *words], stdout=nobody, check=False)
    assert names(tmp_path) == ["00.wav", "generate.json", "generate.png"]


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    for write in (
        lambda path: whole_file(path),
        lambda path: result_folder(path.parent, [path.name], force=False),
    ):
        path = tmp_path / "a.json"
        with pytest.raises(InputError, match=r"a\.json"), write(path) as place:
            (place / "a.json" if place.is_dir() else place).write_text("second")
            path.write_text("first")
        assert names(tmp_path) == ["a.json"] and path.read_text() == "first"
        path.unlink()


def test_a_file_in_the_way_of_a_folder_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("mine")
    with pytest.raises(InputError, match="q: is a file, a folder is to be made there"):
        check_folder(tmp_path, ["p.wav", "q/y.wav"], force=True)


def test_what_a_killed_process_left_is_removed_but_not_what_another_is_writing(tmp_path: Path) -> None:
    dead, alive, mine = (
        tmp_path / name for name in (f".audiovae-{'0' * 12}", f".audiovae-{'1' * 12}", ".audiovae-mine")
    )
    old = time.time() - 2 * ABANDONED_AFTER_SECONDS
    for folder in (dead, alive, mine):
        (folder / "results").mkdir(parents=True)
        (folder / "results" / "floats").write_bytes(b"half")
        for path in (folder / "results" / "floats", folder / "results", folder):
            os.utime(path, (old, old))
    os.utime(alive / "results" / "floats")
    with AudioWriter(tmp_path / "a.wav", 44_100, 1) as writer:
        assert len(list(tmp_path.iterdir())) == 3
        writer.write(torch.zeros(1, 10))
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, mine.name, "a.wav"}
