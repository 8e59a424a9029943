"""``audiovae encode`` and ``decode``."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call, misuse, names, refuse, work
from tiny_codec import save_tiny

from audiovae import codec
from audiovae.audio import Audio
from audiovae.cli import encode_progress
from audiovae.cli.results import UNFINISHED
from audiovae.encoding import writer
from audiovae.errors import InputError
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.folder_lock import locked
from audiovae.json_text import to_json
from audiovae.latent_dataset.schema import Row
from audiovae.latents import Latents


def test_encode_and_decode_mirror_a_folder(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint)
    dataset, out = tmp_path / "latents", tmp_path / "audio"
    words = ("encode", clips, "--out", dataset, *common)
    assert work(*words) == f"wrote {dataset}: 5 encoded, 0 done before, 0 failed"
    assert work(*words) == f"wrote {dataset}: 0 encoded, 5 done before, 0 failed"
    assert work("decode", dataset, "--out", out, *common, "--quality", "draft") == f"wrote {out}: 5 recordings"
    assert names(out) == ["a.wav", "b.wav", "c.wav", "d.wav", "silence.wav"]
    codec.load(checkpoint).encode(clips / "c.flac").save(tmp_path / "c.flac.latents.safetensors")
    work("decode", tmp_path / "c.flac.latents.safetensors", "--out", tmp_path / "one", *common, "--quality", "draft")
    work("reconstruct", clips / "c.flac", "--out", tmp_path / "c.wav", *common, "--quality", "draft")
    assert (tmp_path / "one" / "c.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()
    # A dataset keeps half precision: what comes of it has all but the same spectrum; phases are made up.
    whole, half = (stft_magnitude(Audio.load(path).waveform) for path in (tmp_path / "c.wav", out / "c.wav"))
    assert float((whole - half).norm() / whole.norm()) < 0.1
    words = ("decode", dataset, "--where", "[ab].wav", "--where", "d.wav", "--out", tmp_path / "part", *common)
    assert work(*words, "--quality", "draft") == f"wrote {tmp_path}/part: 3 recordings"
    assert names(tmp_path / "part") == ["a.wav", "b.wav", "d.wav"]
    line = refuse("decode", dataset, "--where", "e.wav", "--out", tmp_path / "none", *common)
    assert line == f"{dataset}: no encoded recording is named e.wav"


def test_decoding_that_was_stopped_goes_on(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, out = tmp_path / "latents", tmp_path / "out"
    work("encode", clips, "--out", dataset, "--checkpoint", checkpoint)
    words = ("decode", dataset, "--checkpoint", checkpoint, "--quality", "draft", "--out")
    work(*words, tmp_path / "whole")
    save, stop_at = codec.Codec.save, "c.wav"

    def saved(self: codec.Codec, latents: Latents, path: Path, **options: Any) -> float:
        if path.name == stop_at:
            raise KeyboardInterrupt
        return save(self, latents, path, **options)

    monkeypatch.setattr(codec.Codec, "save", saved)
    assert refuse(*words, out, code=130) == f"{out}: interrupted; the same command goes on"
    assert names(out) == [UNFINISHED, "a.wav", "b.wav"]
    for other in (("--format", "flac", "--force"), ("--where", "a.wav")):
        stop_at = "c.flac"
        kept = (out / "a.wav").stat().st_mtime_ns
        assert "--force" in other or "holds results already" in refuse(*words, out, "--quality", "best", *other)
        assert (out / "a.wav").stat().st_mtime_ns == kept
    stop_at = ""
    assert work(*words, out) == f"wrote {out}: 5 recordings, 2 of them done before"
    assert names(out) == names(tmp_path / "whole")
    for name in names(out):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "holds results already" in refuse(*words, out)
    stop_at = "b.wav"
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    assert "goes on" in refuse(*words, out, "--force", code=130)
    stop_at = ""
    assert work(*words, out, "--force").endswith("5 recordings, 1 of them done before")
    assert all((out / name).stat().st_mtime_ns > mtime_ns for name, mtime_ns in before.items())


def test_a_part_is_called_what_it_is_called_in_the_whole(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    for name in ("a.wav", "a.flac"):
        Audio.load(clips / "a.wav").save(tmp_path / "music" / name)
    common = ("--checkpoint", checkpoint, "--device", "cpu")
    work("encode", tmp_path / "music", "--out", tmp_path / "latents", *common)
    decode = ("decode", tmp_path / "latents", "--quality", "draft", *common)
    work(*decode, "--out", tmp_path / "whole")
    work(*decode, "--out", tmp_path / "part", "--where", "a.wav")
    assert names(tmp_path / "whole") == ["a.flac.wav", "a.wav.wav"]
    assert names(tmp_path / "part") == ["a.wav.wav"]


def test_a_name_is_told_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    bad = tmp_path / "two  spaces.wav"
    bad.write_text("no audio")
    line = refuse("reconstruct", bad, "--out", tmp_path / "out.wav", "--checkpoint", checkpoint)
    assert line.startswith(f"{bad}: damaged or not audio")


def test_a_damaged_shard_is_told_of(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    words = ("encode", clips / "b.wav", "--out", tmp_path / "latents", "--checkpoint", checkpoint)
    work(*words)
    (tmp_path / "latents" / "latents-000000.parquet").write_text("damaged")
    told = call(*words).stderr
    assert told.startswith(f"audiovae: {tmp_path}/latents/.damaged-latents-000000.parquet: was damaged and set aside; ")


def test_encode_lists_what_failed_and_exits_with_1(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    words = ("encode", bad, clips / "a.wav", "--out", tmp_path / "latents", "--checkpoint", checkpoint)
    result = call(*words)
    assert result.exit_code == 1
    source = str(bad.relative_to(os.path.commonpath([bad.parent, clips])))
    assert result.stderr.startswith(f"audiovae: {source}: damaged or not audio")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == f"wrote {tmp_path}/latents: 1 encoded, 0 done before, 1 failed\n"
    last = json.loads(call(*words, "--json").stdout.splitlines()[-1])
    assert [failure["source"] for failure in last["failures"]] == [source]
    assert (last["event"], last["encoded"], last["done_before"], last["failed"]) == ("finished", 0, 1, 1)
    result = call("encode", bad, clips / "a.wav", "--out", tmp_path / "x", "--checkpoint", checkpoint, "--fail-fast")
    assert result.exit_code == 1
    assert "failed" in result.stdout.splitlines()[-1]


def test_a_damaged_row_is_told_of_and_the_others_are_decoded(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    dataset, out = tmp_path / "latents", tmp_path / "out"
    work("encode", clips, "--out", dataset, "--checkpoint", checkpoint)
    (shard,) = dataset.glob("*.parquet")
    table = pq.read_table(shard)
    frames = table["latent_frames"].to_pylist()
    column = pa.array([frames[0] + 1, *frames[1:]], table["latent_frames"].type)
    place = table.column_names.index("latent_frames")
    shard.unlink()
    pq.write_table(table.set_column(place, table.schema.field(place), column), shard)
    result = call("decode", dataset, "--out", out, "--checkpoint", checkpoint, "--quality", "draft")
    assert result.exit_code == 1
    assert "latents-000000.parquet: damaged: row of a.wav" in result.stderr and "--redo all" in result.stderr
    assert result.stdout.splitlines()[-1] == f"wrote {out}: 4 recordings, 1 failed"
    assert names(out) == ["b.wav", "c.wav", "d.wav", "silence.wav"]


def test_a_pipe_is_no_recording_and_no_checkpoint(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "list.txt").write_text(f"pipe.wav\n{clips / 'a.wav'}\n")
    result = call("encode", tmp_path / "list.txt", "--out", tmp_path / "x", "--checkpoint", checkpoint)
    assert result.exit_code == 1 and "1 encoded, 0 done before, 1 failed" in result.stdout
    assert "pipe.wav: is not a file" in result.stderr
    assert refuse("info", tmp_path / "pipe.wav") == f"{tmp_path}/pipe.wav: is not a file"


def test_what_ends_a_run_before_it_begins_is_an_event_too(checkpoint: Path, tmp_path: Path) -> None:
    for words in ((tmp_path / "none", "--checkpoint", checkpoint), (tmp_path, "--checkpoint", tmp_path / "none")):
        (tmp_path / "a.wav").touch()
        result = call("encode", *words, "--out", tmp_path / "x", "--json")
        assert result.exit_code == 1
        (event,) = map(json.loads, result.stdout.splitlines())
        assert event["event"] == "error" and "none" in event["reason"]


def test_json_holds_no_half_characters() -> None:
    text = to_json({"path": os.fsdecode(b"bad\xff.wav"), "other": "café", os.fsdecode(b"group\xff"): 1})
    assert json.loads(text) == {"path": "bad\\xff.wav", "other": "café", "group\\xff": 1}


def test_decode_refuses_latents_of_another_checkpoint(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other.safetensors", seed=1)
    work("encode", clips / "a.wav", "--out", tmp_path / "latents", "--checkpoint", checkpoint)
    line = refuse("decode", tmp_path / "latents", "--out", tmp_path / "out", "--checkpoint", other)
    for model in (checkpoint, other):
        assert codec.load(model).fingerprint in line
    assert not (tmp_path / "out").exists()
    refuse("decode", tmp_path / "latents", "--out", tmp_path / "new" / "deep" / "er", "--checkpoint", other)
    assert not (tmp_path / "new").exists()


def test_encode_with_workers_and_options_of_the_dataset(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint)
    options_of = ("--logvar", "--precision", "float32")
    work(*common, *options_of, "--workers", 1)
    assert "was made with precision float32, logvar True: use the same, or another folder" in refuse(*common)
    assert work(*common, *options_of, "--redo", "all").endswith("5 encoded, 0 done before, 0 failed")
    (tmp_path / "list.txt").write_text(f"{clips / 'a.wav'}\n")
    assert work(*common[:1], tmp_path / "list.txt", *common[2:], *options_of).endswith("1 done before, 0 failed")
    os.utime(clips / "c.flac", ns=(1, 1))
    last = work(*common, *options_of)
    assert last.endswith(
        "5 done before, 0 failed; 1 changed since they were encoded (--redo changed encodes them again)"
    )


def test_encode_tells_events_as_json_and_little_in_a_log(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("encode", clips, "--checkpoint", checkpoint, "--out")
    monkeypatch.setattr(encode_progress, "EVENT_SECONDS", 0.0)
    events = [json.loads(line) for line in call(*words, tmp_path / "x", "--json").stdout.splitlines()]
    assert [event["event"] for event in events] == ["progress"] * 6 + ["finished"]
    assert [event["encoded"] for event in events] == [0, 1, 2, 3, 4, 5, 5]
    assert events[-1]["audio_seconds"] == pytest.approx((12_000 * 2 + 6_000 * 2) / 44_100 + 6_000 / 22_050)
    assert events[-2]["remaining_seconds"] == 0
    assert len(call(*words, tmp_path / "quick").stdout.splitlines()) == 1
    monkeypatch.setattr(encode_progress, "LOG_SECONDS", 0.0)
    lines = call(*words, tmp_path / "long").stdout.splitlines()
    assert lines[1].startswith("1/5  0.0 h of audio, ") and lines[1].endswith(", 0 min to go")


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (KeyboardInterrupt(), 130, {"event": "interrupted"}),
        (InputError("x/latents-000000.parquet:\ncan't be written"), 1, {"event": "error"}),
    ],
)
def test_events_are_json_to_the_end_when_a_run_ends_early(
    checkpoint: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    last: dict[str, str],
) -> None:
    add = writer.ShardWriter.add

    def fail_at_the_fourth(self: writer.ShardWriter, row: Row) -> None:
        if len(self.rows) == 3:
            raise error
        add(self, row)

    monkeypatch.setattr(encode_progress, "EVENT_SECONDS", 0.0)
    monkeypatch.setattr(writer.ShardWriter, "add", fail_at_the_fourth)
    result = call("encode", clips, "--checkpoint", checkpoint, "--out", tmp_path / "x", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == code
    assert [event["event"] for event in events] == ["progress"] * 4 + [last["event"]]
    assert events[-1] == events[-2] | last | ({"reason": " ".join(str(error).split())} if code == 1 else {})


def test_encode_on_ray_without_it_says_what_to_install(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refuse("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint, "--ray", "local")
    assert line == 'encoding on Ray needs more packages: pip install "audiovae[ray]"'


def test_on_ray_this_machine_needs_no_gpu_and_workers_are_the_nodes(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint, "--ray", "local", "--device", "cuda")
    assert refuse(*words) == 'encoding on Ray needs more packages: pip install "audiovae[ray]"'
    assert "not with --ray" in misuse(*words, "--workers", 2)


def test_a_second_encode_into_a_dataset_is_refused(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "x"):
        line = refuse("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint)
    assert line == f"{tmp_path}/x: another process is writing to it"


def test_a_second_decode_into_a_folder_is_refused_and_no_lock_is_left(
    checkpoint: Path, clips: Path, tmp_path: Path
) -> None:
    dataset, out = tmp_path / "latents", tmp_path / "out"
    work("encode", clips / "a.wav", "--out", dataset, "--checkpoint", checkpoint)
    words = ("decode", dataset, "--out", out, "--checkpoint", checkpoint, "--quality", "draft")
    with locked(out):
        assert refuse(*words, "--force") == f"{out}: another process is writing to it"
    work(*words)
    assert names(out) == ["a.wav"]
