"""Render 100 hours of training audio from what a bundle holds, straight into what training reads.

    python data/render.py BUNDLE OUT --hours 100 --jobs 16

BUNDLE is an unpacked bundle: music/ (Opus files and their manifest), soundfonts/, midi.tgz. Notes are played by
every SoundFont, scores in scorings, keys, tempi, dynamics and rooms drawn at random, until the hours are reached.
One process per core; the same options give the same bytes; a rendering that was killed goes on where it was.
Nothing of a test split is rendered: neither test works nor tracks are in the corpus.
"""

import argparse
import hashlib
import os
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import soxr

import notes
import scores
from audiovae.errors import InputError
from corpus import SAMPLE_RATE, Job, Row, above_zero, begin_worker, errors_told, in_order, one_or_more, read_rows
from pack import Pack, Recording, recording

JOBS_AHEAD = 4  # of each process: it is never idle, and memory stays small
NOTES_SHARE = 0.25  # of the hours that are rendered
VALID_SHARE = 0.02  # of the notes, relative to the hours for training
SCORE_SECONDS = 60.0
SCORES_PLANNED = 10  # times as many as would be needed if all had the full length
REPORT_EVERY_SECONDS = 15.0


@dataclass(frozen=True)
class Excerpt:
    """An Opus file of real music, and its row in the bundle's manifest."""

    folder: Path
    row: tuple[tuple[str, object], ...]

    @property
    def file(self) -> Path:
        return Path(str(dict(self.row)["file"]))


def play(job: Excerpt) -> tuple[np.ndarray, Row] | None:
    """Decode an excerpt to 44.1 kHz."""
    audio, rate = soundfile.read(job.folder / job.file, dtype="float32")
    return soxr.resample(audio, rate, SAMPLE_RATE), {key: value for key, value in job.row if key != "file"}


MAKERS = {"music": play, "notes": notes.make, "scores": scores.make}


@dataclass(frozen=True)
class Task:
    """One recording to be made."""

    corpus: str
    job: Job

    @property
    def path(self) -> str:
        """Its name in the corpus, which says its split."""
        return f"{self.corpus}/{self.job.file.as_posix()}"


def make(task: Task) -> tuple[Recording | None, float]:
    """Render one recording, None if it came out silent; and the seconds that a core needed."""
    began = time.process_time()
    made = MAKERS[task.corpus](task.job)
    return None if made is None else recording(*made), time.process_time() - began


def plan(bundle: Path, midi: Path, hours: float, seed: int) -> Iterator[Task]:
    """All recordings in their order: music, notes, and scores without end, of which as many are made as are wanted."""
    for row in read_rows(bundle / "music" / "manifest.jsonl"):
        yield Task("music", Excerpt(bundle / "music", tuple(sorted(row.items()))))
    fonts = find_fonts(bundle)
    for font in fonts:
        for split, share in (("train", 1.0), ("valid", VALID_SHARE)):
            for job in notes.plan(font, split, hours * NOTES_SHARE * share / len(fonts), seed):
                yield Task("notes", job)
    pieces = sorted(midi.rglob("*.mid"))
    if not pieces:
        raise InputError(f"{bundle / 'midi.tgz'}: no .mid files in it")
    for job in scores.plan(pieces, fonts, SCORES_PLANNED * hours, SCORE_SECONDS, seed):
        if job.split == "train" or (job.split == "valid" and job.number == 0):
            yield Task("scores", job)


def find_fonts(bundle: Path) -> list[Path]:
    """The SoundFonts of a bundle. Raises InputError if it has none."""
    fonts = sorted(path for path in (bundle / "soundfonts").glob("*") if path.suffix in (".sf2", ".sf3"))
    if not fonts:
        raise InputError(f"{bundle / 'soundfonts'}: no SoundFonts in it")
    return fonts


def render(bundle: Path, out: Path, *, hours: float, seed: int, jobs: int) -> str:
    """Make the corpus, or what is missing of it, and return what there is in words."""
    recipe = {"hours": hours, "seed": seed, "inputs": inputs_digest(bundle)}
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come, each of which has a core
    with tempfile.TemporaryDirectory() as scratch, Pack(out, recipe) as pack:
        with tarfile.open(bundle / "midi.tgz") as archive:
            archive.extractall(scratch, filter="data")
        # Forked from a process without threads, which has imported what takes seconds.
        context = get_context("forkserver")
        context.set_forkserver_preload(["torch", "soundfile", "soxr"])
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=begin_worker) as pool:
            speeds = _fill(pack, plan(bundle, Path(scratch), hours, seed), pool, jobs, hours)
        return f"{pack.finish()}\n{speeds}"


def _fill(pack: Pack, tasks: Iterator[Task], pool: ProcessPoolExecutor, jobs: int, hours: float) -> str:
    """Append what is missing, and return how fast it was made."""
    for row in pack.rows:
        task = next(tasks, None)
        if task is None or row["file"] != task.path:
            raise InputError(f"{pack.root}: {row['file']} is not of this recipe; choose another folder")
    before, began, said = pack.seconds("train"), time.monotonic(), time.monotonic()
    made = before
    lengths: defaultdict[str, float] = defaultdict(float)
    core_seconds: defaultdict[str, float] = defaultdict(float)
    for task, (result, seconds) in in_order(pool, make, tasks, ahead=JOBS_AHEAD * jobs):
        if task.corpus == "scores" and made >= hours * 3600:
            break
        pack.append(task.path, result)
        length = len(result.samples) / SAMPLE_RATE if result else 0.0
        made += length if pack.rows[-1]["split"] == "train" else 0
        lengths[task.corpus] += length
        core_seconds[task.corpus] += seconds
        if time.monotonic() - said >= REPORT_EVERY_SECONDS:
            said = time.monotonic()
            speed = (made - before) / (said - began)
            print(f"{made / 3600:.1f} of {hours:g} h, {speed:.0f} times real time", flush=True)
    if made < hours * 3600:
        raise InputError(f"{pack.root}: music, notes and scores give only {made / 3600:.2f} of {hours:g} hours")
    rates = (f"{name} {lengths[name] / max(spent, 1e-3):.0f}" for name, spent in core_seconds.items())
    return f"times real time on one core: {', '.join(rates) or 'nothing was left to do'}"


def inputs_digest(bundle: Path) -> str:
    """Of all that sounds depend on: a corpus that was begun with one bundle is not continued with another."""
    digest = hashlib.sha256()
    for path in [bundle / "midi.tgz", bundle / "music" / "manifest.jsonl", *find_fonts(bundle)]:
        try:
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise InputError(f"{path}: can't be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--hours", type=above_zero, default=100.0, help="of audio to train on (default 100)")
    parser.add_argument("--jobs", type=one_or_more, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


@errors_told()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    began = time.monotonic()
    print(render(options.bundle, options.out, hours=options.hours, seed=options.seed, jobs=options.jobs))
    print(f"wrote {options.out}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
