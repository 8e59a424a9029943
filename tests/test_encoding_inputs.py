"""What can be given to encode, and the names that recordings get."""

import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
from conftest import tone

from audiovae.audio import Audio
from audiovae.audio_folder import find_audio
from audiovae.encoding.inputs import find_recordings
from audiovae.errors import InputError


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """a.wav, a.flac and live/b.wav, of nothing: inputs are found by name."""
    folder = tmp_path / "music"
    (folder / "live").mkdir(parents=True)
    for name in ("a.wav", "a.flac", "live/b.wav", "cover.jpg", ".hidden.wav"):
        (folder / name).touch()
    return folder


def sources(*inputs: object) -> list[str]:
    return [one.source for one in find_recordings([str(one) for one in inputs])]


def test_one_folder_gives_sources_below_it(music: Path) -> None:
    found = find_recordings([music])
    assert [one.source for one in found] == ["a.flac", "a.wav", "live/b.wav"]
    assert {one.root for one in found} == {str(music)}
    assert [one.path for one in found] == [music / one.source for one in found]


def test_one_file_gives_its_name(music: Path) -> None:
    assert sources(music / "live" / "b.wav") == ["b.wav"]


def test_several_inputs_never_share_a_source_and_each_file_comes_once(music: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.wav").touch()
    found = sources(music, other / "a.wav", music / "live", music / ".." / "music" / "a.wav")
    assert found == ["music/a.flac", "music/a.wav", "music/live/b.wav", "other/a.wav"]


def test_the_name_of_a_recording_is_the_same_however_it_was_given(music: Path, tmp_path: Path) -> None:
    names = {
        find_recordings(inputs)[-1].name for inputs in ([music], [music / "live"], [tmp_path / "music/live/b.wav"])
    }
    assert names == {f"{music}/live/b.wav"}


def test_globs_are_understood_where_no_shell_did(music: Path) -> None:
    assert sources(f"{music}/*.wav") == ["a.wav"]
    assert sources(f"{music}/**/*.wav") == ["a.wav", "live/b.wav"]
    assert sources(f"{music}/l*") == ["live/b.wav"]
    assert sources(f"{music}/**/l*") == ["live/b.wav"]
    assert sources(f"{music}/**") == sources(f"{music}/**/") == sources(music)
    with pytest.raises(InputError, match="no audio files in it"):
        sources(f"{music}/*.ogg")


def test_lists_and_manifests_are_relative_to_themselves(music: Path, tmp_path: Path) -> None:
    (music / "list.txt").write_bytes(b"live/b.wav\r\n\n  a.wav\n" + b"caf\xe9.wav\n" + bytes(tmp_path) + b"/far.wav\n")
    found = find_recordings([music / "list.txt"])
    assert [(one.root, one.source) for one in found] == [
        (str(music), "live/b.wav"),
        (str(music), "  a.wav"),
        (str(music), "caf\\xe9.wav"),
        ("/", f"{tmp_path}/far.wav".removeprefix("/")),
    ]
    assert found[2].path == music / os.fsdecode(b"caf\xe9.wav")
    lines = [{"path": "new\nline.wav", "text": "x"}, {"audio_filepath": "../music/a.wav"}]
    (music / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert sources(music / "m.jsonl") == ["new\nline.wav", "a.wav"]


@pytest.mark.parametrize(
    "line", ["a.wav", '{"name": "a.wav"}', "[1]", '{"path": 3}', '{"path": "\\ud800"}', "{" * 9999]
)
def test_a_manifest_that_is_none_is_refused(music: Path, line: str) -> None:
    (music / "m.jsonl").write_text(line)
    with pytest.raises(InputError, match=r"m\.jsonl: want lines like"):
        sources(music / "m.jsonl")


def test_archives_are_like_folders(tmp_path: Path) -> None:
    archive = tmp_path / "shard.tar"
    Audio(tone(samples=3000), 44_100).save(tmp_path / "x.wav")
    data = (tmp_path / "x.wav").read_bytes()
    with tarfile.open(archive, "w") as tar:
        for name in ("000.wav", "000.json", "deep/001.wav", "../escape.wav", "/root.wav"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_600_000_000
            tar.addfile(info, io.BytesIO(data))
    found = find_recordings([archive])
    expected = ["shard.tar/000.wav", "shard.tar/deep/001.wav", "shard.tar/../escape.wav", "shard.tar/root.wav"]
    assert [one.source for one in found] == expected
    assert {one.root for one in found} == {str(tmp_path)}
    with archive.open("rb") as file:
        for one in found:
            assert one.member is not None and one.member.mtime_ns == 1_600_000_000 * 10**9
            file.seek(one.member.offset)
            assert file.read(one.member.size) == data


def test_links_in_an_archive_are_what_they_lead_to(tmp_path: Path) -> None:
    Audio(tone(samples=3000), 44_100).save(tmp_path / "a.wav")
    (tmp_path / "hard.wav").hardlink_to(tmp_path / "a.wav")
    (tmp_path / "soft.wav").symlink_to("hard.wav")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("a.wav", "hard.wav", "soft.wav"):
            tar.add(tmp_path / name, f"in/{name}")
    found = find_recordings([tmp_path / "t.tar"])
    assert [one.source for one in found] == ["t.tar/in/a.wav", "t.tar/in/hard.wav", "t.tar/in/soft.wav"]
    assert len({one.member and (one.member.offset, one.member.size) for one in found}) == 1


def test_an_archive_that_is_damaged_or_cut_off_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("a.wav", "b.wav"):
            Audio(tone(samples=3000), 44_100).save(tmp_path / name)
            tar.add(tmp_path / name, name)
    with tarfile.open(tmp_path / "t.tar") as tar:
        last = tar.getmember("b.wav")
        second, end = last.offset, last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    whole = (tmp_path / "t.tar").read_bytes()
    damaged = bytearray(whole)
    damaged[second + 3] ^= 1
    for content, reason in (
        (damaged, f"damaged or cut off at byte {second}"),
        (whole[: second + 100], f"damaged or cut off at byte {second}"),
        (whole[: second + 700], "damaged or cut off"),
    ):
        (tmp_path / "t.tar").write_bytes(content)
        with pytest.raises(InputError, match=rf"t\.tar: {reason}$"):
            find_recordings([tmp_path / "t.tar"])
    (tmp_path / "t.tar").write_bytes(whole[:end])
    assert len(find_recordings([tmp_path / "t.tar"])) == 2  # as some programs end it


def test_links_that_lead_nowhere_are_recordings_and_loops_are_no_trap(music: Path) -> None:
    (music / "dangling.wav").symlink_to("nothing.wav")
    (music / "loop.wav").symlink_to("loop.wav")
    (music / "around").symlink_to(music, target_is_directory=True)
    found = ["a.flac", "a.wav", "dangling.wav", "live/b.wav", "loop.wav"]
    assert sources(music) == sources(f"{music}/**") == found
    assert sources(f"{music}/**/*.wav") == [name for name in found if name != "a.flac"]
    assert sources(f"{music}/**/*") == found
    assert sources(f"{music}/*") == sorted([*found, *(f"around/{name}" for name in found)])  # that link was asked for
    assert sources(f"{music.parent}/*/dangling.wav") == ["music/dangling.wav"]


def test_parts_of_a_glob_are_matched_one_by_one(music: Path) -> None:
    assert sources(f"{music}/**.wav") == sources(f"{music}/*.wav") == ["a.wav"]
    assert sources(f"{music}/l**") == sources(f"{music}/l*/") == ["live/b.wav"]
    assert sources(f"{music}/l*/../*.flac") == ["a.flac"]
    (music / "live" / "._b.wav").touch()
    (music / ".old").mkdir()
    assert sources(f"{music}/.old/../live/*.wav") == ["b.wav"]


def test_globs_find_archives_and_leave_out_what_is_hidden(music: Path, tmp_path: Path) -> None:
    (music / ".old").mkdir()
    (music / ".old" / "c.wav").write_bytes((music / "a.wav").read_bytes())
    assert ".old/c.wav" not in sources(f"{music}/**/*.wav")
    assert sources(f"{music}/.old/*.wav") == ["c.wav"]
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        tar.add(music / "a.wav", "a.wav")
    assert sources(f"{tmp_path}/shard-*.tar") == ["shard-0.tar/a.wav"]


def test_a_file_that_cannot_be_looked_at_is_a_recording(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Path.is_file  # root may enter any folder, so the system's answer is made up

    def refuse(path: Path) -> bool:
        if path.parent.name == "live":
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert sources(music) == ["a.flac", "a.wav", "live/b.wav"]


def test_a_folder_that_cannot_be_read_is_told_of_and_the_rest_is_taken(
    music: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed = os.scandir  # root may read anything, so the system's answer is made up

    def refuse(path: str) -> object:
        if str(path).endswith("live"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert sources(music) == ["a.flac", "a.wav"]
    assert f"{music}/live: can't be read: Permission denied" in caplog.text
    with pytest.raises(InputError, match=r"live: can.t be read: Permission denied$"):
        find_audio(music / "live")


def test_inputs_without_recordings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tar").write_text("not a tar archive")
    (tmp_path / "a.tar.gz").write_text("compressed")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wide.txt").write_text("a.wav\n", encoding="utf-16")
    for name, reason in {
        "empty": "no audio files in it",
        "missing": "no such file or folder",
        "a.tar": "not a tar archive, or a compressed one",
        "a.tar.gz": "not a tar archive, or a compressed one",
        "empty.txt": "no audio files in it",
        "wide.txt": "not a list of paths in UTF-8",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            sources(tmp_path / name)
    with pytest.raises(InputError, match="an input is empty: name a file or folder"):
        sources("")


@pytest.mark.parametrize(
    ("address", "reason"),
    {
        "https://host/a.wav": "only s3://, gs:// and files of this machine can be read",
        "s3://": "want a bucket's name after s3://",
        "gs:///a.wav": "want a bucket's name after gs://",
        "s3://buck*/a.wav": "want a bucket's name after s3://",
    }.items(),
)
def test_addresses_that_are_none_are_refused_in_one_line(address: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(address)}: {reason}"):
        find_recordings([address])


def test_credentials_in_an_address_are_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("s3://KEY:SECRET@bucket/a.wav")
    for given in ("s3://KEY:SECRET@bucket/a.wav", str(tmp_path / "list.txt")):
        with pytest.raises(InputError, match=r"^s3://…: has credentials in it") as refused:
            find_recordings([given])
        assert "SECRET" not in str(refused.value)
