"""What is different on Windows and macOS, as far as it can be told on any system."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import typer.core
from conftest import tone
from encoding_stand_in import make_music, run
from tiny_codec import save_tiny

from audiovae import cli
from audiovae.audio import Audio
from audiovae.checkpoint import load_checkpoint, save_checkpoint
from audiovae.cli.models import _watching
from audiovae.cli.report import Report
from audiovae.config import Config
from audiovae.encoding import workers
from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.preparation import Analysis
from audiovae.encoding.restore import Stored, audio_names, choose
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import name_text
from audiovae.latent_dataset.shards import find_shards
from audiovae.latents import Latents
from audiovae.training.loop import Progress
from audiovae.training.run import Run
from audiovae.whole_file import temporary_folder

MAPS, HANDLES = Path("/proc/self/maps"), Path("/proc/self/fd")
WITHOUT_POSIX = """
import signal
import subprocess
import sys

sys.modules |= dict.fromkeys(("_posixsubprocess", "fcntl", "resource"))
for name in ("pthread_sigmask", "SIGHUP"):
    delattr(signal, name)
"""
"""Takes from an interpreter what Windows lacks, once subprocess has what it needs to start others."""


def as_on_windows(code: str, *words: object) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_POSIX + code, *map(str, words)], check=True, timeout=120)


def test_ctrl_break_ends_a_command_as_ctrl_c_does() -> None:
    """Windows has no other signal that a program can send to another one."""
    as_on_windows("""
signal.SIGBREAK = signal.SIGUSR1
from audiovae import cli
cli._clean_up_when_told_to_stop()
try:
    signal.raise_signal(signal.SIGBREAK)
except KeyboardInterrupt:
    sys.exit(0)
sys.exit(1)
""")


def is_held(path: str | Path) -> bool:
    """Whether this process has a file open or mapped: Windows then neither renames nor removes it."""
    handles = set()
    for handle in HANDLES.iterdir():
        with suppress(FileNotFoundError):  # another thread has closed it
            handles.add(os.readlink(handle))
    return str(path) in handles or str(path) in MAPS.read_text()


def test_children_start_where_signals_cannot_be_masked() -> None:
    as_on_windows("from audiovae.interrupts import children_deaf\nwith children_deaf():\n    pass\n")


def test_libsndfile_gets_names_as_text_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look for bytes in the code page's encoding, and not find José's folder."""
    opened: list[object] = []
    open_file = soundfile.SoundFile._open

    def recorded(self: soundfile.SoundFile, file: Any, *rest: Any) -> Any:
        opened.append(file)
        return open_file(self, os.fsencode(file), *rest)  # what works here

    monkeypatch.setattr(soundfile.SoundFile, "_open", recorded)
    monkeypatch.setattr(sys, "platform", "win32")
    (tmp_path / "José").mkdir()
    for suffix in (".wav", ".mp3"):
        Audio(tone(), 44_100).save(tmp_path / "José" / f"Überall{suffix}")
        Audio.load(tmp_path / "José" / f"Überall{suffix}")
    assert {type(name) for name in opened} == {str}


def test_mp3_is_read_where_there_is_no_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a Windows program without a console."""

    def without(call: Callable[[int], Any]) -> Callable[[int], Any]:
        def called(handle: int) -> Any:
            if handle == 2:
                raise OSError(errno.EBADF, "Bad file descriptor")
            return call(handle)

        return called

    Audio(tone(), 44_100).save(tmp_path / "a.mp3")
    monkeypatch.setattr(os, "dup", without(os.dup))
    monkeypatch.setattr(os, "fstat", without(os.fstat))
    assert Audio.load(tmp_path / "a.mp3").samples == 22_050


@pytest.mark.skipif(not MAPS.exists(), reason="what is mapped is listed in /proc")
def test_what_was_read_is_not_mapped(tmp_path: Path) -> None:
    """Windows replaces no file that is: a run saves its state, and train-prior its model, over the one it has read."""
    path = save_tiny(tmp_path / "tiny.safetensors")
    loaded = load_checkpoint(path)
    assert not is_held(path)
    save_checkpoint(path, model=loaded.model, prior=loaded.prior, facts=loaded.facts, force=True)


@pytest.mark.skipif(not MAPS.exists(), reason="what is open and mapped is listed in /proc")
@pytest.mark.parametrize("damage", [None, "cut", "empty", "page"])
def test_a_shard_is_let_go_before_it_is_replaced(
    damage: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    music, dataset = make_music(tmp_path / "music"), tmp_path / "latents"
    run(music, dataset)
    (music / "00002.wav").write_text("changed")
    (music / "00005.wav").write_text("good now")
    if damage:
        shard = find_shards(dataset)[0]
        data = shard.read_bytes()
        damaged = {"cut": data[:200], "empty": b"", "page": data[:40] + bytes([data[40] ^ 0xFF]) + data[41:]}
        shard.write_bytes(damaged[damage])
    held: list[object] = []

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            held.extend(one for one in arguments if is_held(one))
            return call(*arguments, **named)

        return called

    monkeypatch.setattr(os, "replace", watched(os.replace))
    monkeypatch.setattr(Path, "unlink", watched(Path.unlink))
    assert len(run(music, dataset, redo="changed").damaged) == (damage is not None)
    assert not held


def test_globs_that_a_command_takes_itself_are_not_spelt_out_before_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There no shell and no quotes say whether a glob is meant for the program."""
    model = save_tiny(tmp_path / "tiny.safetensors")
    for name in ("a.wav", "b.wav"):
        Audio(tone(), 44_100).save(tmp_path / name)
    (tmp_path / "cover.jpg").write_text("no sound")
    for module in (cli, typer.core):
        monkeypatch.setattr(module, "os", SimpleNamespace(**(vars(os) | {"name": "nt"})))
    for of_the_process in ("_hush_libraries", "_clean_up_when_told_to_stop"):
        monkeypatch.setattr(cli, of_the_process, lambda: None)
    monkeypatch.chdir(tmp_path)
    for words in ("encode * --out latents", "decode latents --where *.wav --out audio --quality draft"):
        monkeypatch.setattr(sys, "argv", ["audiovae", *words.split(), "--checkpoint", str(model)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert (end.value.code, capsys.readouterr().err) == (0, "")
    assert {path.name for path in (tmp_path / "audio").iterdir()} == {"a.wav", "b.wav"}


def test_sources_from_other_systems_get_names_that_windows_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "What?.flac",
        "11:59/c*.wav",
        "CON.wav",
        "x/aux",
        r"..\..\y.wav",
        "C:/z.wav",
        "caf\udce9.wav",
        "Vol. 1.../a.wav",
    ]
    sources = [name_text(name) for name in names]
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("utf-8", "surrogatepass"))  # as it is there
    expected = ["What_", "11_59/c_", "_CON", "x/_aux", ".._.._y", "C_/z", "caf_", "Vol. 1/a"]
    assert audio_names(sources, "wav") == [f"{name}.wav" for name in expected]


def test_a_temporary_folder_is_no_more_private_than_others(tmp_path: Path) -> None:
    """On Windows a file keeps the rights that it got in the folder where it was made."""
    (tmp_path / "plain").mkdir()
    with temporary_folder(tmp_path) as temporary:
        assert temporary.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_clock_that_stands_still_between_two_figures_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows it ticks every 16 ms."""
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    with _watching(Run(tmp_path, Config(), tmp_path, tmp_path), Report(as_json=False, quiet=True)) as watch:
        for step in (1, 2):
            watch.stepped(Progress(step, loss=1.0, error_db=1.0, kl=1.0, learning_rate=1e-3, skipped_steps=0))


def test_accents_match_however_a_name_is_composed(tmp_path: Path) -> None:
    """A Mac's names may have them apart, and what is typed has them joined."""
    joined, apart = "Caf\u00e9", "Cafe\u0301"
    (tmp_path / apart).mkdir()
    (tmp_path / apart / "a.wav").write_text("audio")
    (found,) = find_recordings([tmp_path / f"{joined}*" / "*.wav"])
    assert found.path == tmp_path / apart / "a.wav"
    stored = [Stored(f"{apart}/a.wav", "", Latents.load), Stored("b.wav", "", Latents.load)]
    assert choose(tmp_path, stored, [f"{joined}/*"]) == choose(tmp_path, stored, [f"{joined}/a.wav"]) == [0]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_a_list_in_another_encoding_is_refused_where_all_names_are_text(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``dir /b *.wav > list.txt`` makes it; elsewhere names may hold any bytes."""
    (tmp_path / "list.txt").write_bytes("Größe.wav\r\n".encode("cp850"))
    monkeypatch.setattr(sys, "platform", "linux")
    (found,) = find_recordings([tmp_path / "list.txt"])
    assert found.source == r"Gr\x94\xe1e.wav"
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(InputError, match=r"list\.txt: not a list of paths in UTF-8"):
        find_recordings([tmp_path / "list.txt"])
    (tmp_path / "list.txt").write_text("Größe.wav\n", encoding="utf-8-sig")
    assert find_recordings([tmp_path / "list.txt"])[0].source == "Größe.wav"


def test_a_folder_that_is_spelt_otherwise_is_the_same(tmp_path: Path) -> None:
    """Windows and Macs take Music for music, which here a link does."""
    music = make_music(tmp_path / "music")
    if not (tmp_path / "Music").exists():
        (tmp_path / "Music").symlink_to(music)
    (tmp_path / "backup").symlink_to(music)
    run(music, tmp_path / "latents")
    assert run(tmp_path / "Music", tmp_path / "latents").encoded == 0
    (music / "00002.wav").write_text("changed")
    outcome = run(tmp_path / "Music", tmp_path / "latents", redo="changed")
    assert (outcome.done_before, outcome.encoded) == (5, 1)
    assert run(tmp_path / "backup", tmp_path / "latents").encoded == 6


def test_no_more_processes_are_waited_for_than_windows_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def pool(*_: object, workers: int) -> None:
        asked.append(workers)
        raise InterruptedError

    monkeypatch.setattr(workers, "_Pool", pool)
    for platform in ("win32", "linux"):
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(InterruptedError):
            next(workers.prepared([Recording("a.wav", "/music")] * 100, Analysis(Config(), 8, 24), workers=80))
    assert asked == [60, 80]
