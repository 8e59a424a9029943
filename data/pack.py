"""Many recordings in one file, in order, which training reads where it lies (`audiovae train --data ROOT`).

ROOT/decoded.int16 has the samples, ROOT/manifest.jsonl a row for every recording with its licence, and
ROOT/decoded.json, written last, what training needs of them. A recording that was killed half-way is made again.
"""

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from audiovae.folder_lock import locked
from audiovae.level import level_db
from audiovae.training.decoded import DECODED_AUDIO, DECODED_INDEX, Source
from audiovae.whole_file import whole_file
from corpus import MANIFEST, RECIPE, SAMPLE_RATE, SPLITS, Row, agree, read_rows, write_rows


@dataclass(frozen=True)
class Recording:
    """Mono samples at 44.1 kHz, 16 bits, their level in dBFS, and what the manifest says of them."""

    samples: np.ndarray
    level_db: float
    labels: Row


def recording(audio: np.ndarray, labels: Row) -> Recording:
    """Bring floats to 16 bits, turned down only where they exceed full scale."""
    peak = float(np.abs(audio).max(initial=0.0))
    samples = np.round(audio / max(peak, 1.0) * 32767).astype("<i2")
    waveform = torch.from_numpy(samples.astype(np.float32) / 32767)
    return Recording(samples, level_db(waveform[None], SAMPLE_RATE), labels)


class Pack:
    """A corpus being written; what an earlier process wrote of it is kept, and ended where it was whole."""

    def __init__(self, root: Path, recipe: Row) -> None:
        """Raises InputError if another process fills the folder, another recipe made it, or the disk refuses."""
        self.root = root
        self._open = ExitStack()
        self._open.enter_context(locked(root))
        agree(root / RECIPE, recipe)
        (root / DECODED_INDEX).unlink(missing_ok=True)
        (root / DECODED_AUDIO).touch()
        self.rows = _whole_rows(read_rows(root / MANIFEST), (root / DECODED_AUDIO).stat().st_size)
        write_rows(root / MANIFEST, self.rows)
        self._audio = self._open.enter_context((root / DECODED_AUDIO).open("r+b", buffering=0))
        self._audio.truncate(2 * self.samples)
        self._audio.seek(2 * self.samples)
        self._manifest = self._open.enter_context((root / MANIFEST).open("a", encoding="utf-8"))

    def __enter__(self) -> "Pack":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._open.close()

    @property
    def samples(self) -> int:
        """Samples so far."""
        return self.rows[-1]["offset"] + self.rows[-1]["samples"] if self.rows else 0

    def seconds(self, split: str) -> float:
        """Length of a split so far."""
        return sum(row["samples"] for row in self.rows if row["split"] == split) / SAMPLE_RATE

    def append(self, path: str, made: Recording | None) -> None:
        """Add a recording (None: one that came out silent). Its row comes after its samples, so that it is true."""
        place: Row = {"file": path, "split": Path(path).parts[1], "offset": self.samples, "samples": 0}
        if made is not None:
            data = memoryview(made.samples.tobytes())
            while data:
                data = data[self._audio.write(data) :]
            place |= {"samples": len(made.samples), "level_db": round(made.level_db, 3)} | made.labels
        self._manifest.write(json.dumps(place) + "\n")
        self._manifest.flush()
        self.rows.append(place)

    def finish(self) -> str:
        """Write the index that training reads, and return what there is in words."""
        sources = [
            asdict(Source(row["file"], row["offset"], row["samples"], row["level_db"], row["split"]))
            for row in self.rows
            if row["samples"]
        ]
        with whole_file(self.root / DECODED_INDEX, force=True) as temporary:
            temporary.write_text(json.dumps({"sample_rate": SAMPLE_RATE, "sources": sources}), encoding="utf-8")
        return summary(self.rows)


def summary(rows: list[Row]) -> str:
    """Files and hours of every corpus and split."""
    words = []
    for corpus in sorted({Path(row["file"]).parts[0] for row in rows}):
        own = [row for row in rows if Path(row["file"]).parts[0] == corpus and row["samples"]]
        for split in SPLITS:
            lengths = [row["samples"] for row in own if row["split"] == split]
            if lengths:
                words.append(f"{corpus} {split} {len(lengths)} files {sum(lengths) / SAMPLE_RATE / 3600:.2f} h")
    return ", ".join(words)


def _whole_rows(rows: list[Row], audio_bytes: int) -> list[Row]:
    """The first rows, as far as their samples are there."""
    return list(takewhile(lambda row: 2 * (row["offset"] + row["samples"]) <= audio_bytes, rows))
