"""A folder of audio, decoded once into one file that can be mapped into memory."""

import hashlib
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from audiovae.audio import AudioFile
from audiovae.audio_folder import find_audio
from audiovae.config import Config, DataConfig
from audiovae.errors import InputError
from audiovae.level import LevelMeter
from audiovae.training.decoded import Source, is_decoded, open_decoded, sources_of, top_folder
from audiovae.training.older_caches import Files, files_of, older_caches
from audiovae.training.splits import with_splits
from audiovae.whole_file import temporary_folder

CACHE_FORMAT = 4
"""Part of a cache's name: where this code stores something else than before, folders are decoded again."""
BLOCK_SAMPLES = 1 << 20
FILES_LOOKED_INTO, BYTES_LOOKED_AT = 32, 4096
"""To tell one folder from another: files spread evenly over it, the middle of each."""
FILES_AHEAD = 8
"""Files that are decoded, or being decoded, before their turn to be written."""
SILENT_BELOW_DB = -80.0
logger = logging.getLogger(__name__)
OnProgress = Callable[[int, int], None]
"""Called with the files that are done, and how many there are."""


@dataclass(frozen=True)
class Skipped:
    """One audio file that can't be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Cache:
    """Decoded audio of a folder: mono, at the model's rate, one file after the other, each as loud as 16 bits hold."""

    audio: Path
    sources: tuple[Source, ...]
    skipped: tuple[Skipped, ...]

    def split(self, name: str) -> tuple[Source, ...]:
        """The sources of a split: ``train``, ``valid`` or ``test``; empty if nothing is in it."""
        return tuple(source for source in self.sources if source.split == name)


def open_cache(
    folder: Path, cache_folder: Path, config: Config, *, progress: OnProgress = lambda done, of: None
) -> Cache:
    """Opens the cache of an audio folder, decoding the folder first if it is new or has changed.

    Several processes may do so at once: each decodes under a name of its own, and what they make is the same.
    A folder of decoded audio is its own cache. Raises InputError if the folder holds no audio that can be trained on,
    or the disk is full.
    """
    if is_decoded(folder):
        audio, decoded = open_decoded(folder, config.spectrogram.sample_rate)
        skipped = []
    else:
        audio, decoded, skipped = _decoded_once(folder, cache_folder, config, progress)
    files = len(decoded) + len(skipped)
    # What follows depends on more settings than the decoded audio does, so it is not part of the cache.
    sources = with_splits([one for one in decoded if one.samples >= segment_samples(config)], config.data)
    too_short = f"shorter than a segment ({segment_samples(config) / config.spectrogram.sample_rate:.1f} s)"
    skipped += [Skipped(one.path, too_short) for one in decoded if one.samples < segment_samples(config)]
    if not any(source.split == "train" for source in sources):
        raise InputError(f"{folder}: nothing to train on among its {files} audio files: {_why(sources, skipped)}")
    _refuse_strange_shares(folder, sources, config.data)
    return Cache(audio, sources, tuple(skipped))


def _decoded_once(
    folder: Path, cache_folder: Path, config: Config, progress: OnProgress
) -> tuple[Path, list[Source], list[Skipped]]:
    paths = find_audio(folder)
    if not paths:
        raise InputError(f"{folder}: no audio files in it")
    files, made_of = files_of(folder, paths), _made_of(folder, config)
    key = _fingerprint(folder, files, config)
    audio, index = cache_folder / f"{key}.int16", cache_folder / f"{key}.json"
    if not _is_whole(audio, index):
        older = older_caches(cache_folder, made_of, key=key)
        if older.indexes:
            logger.warning(f"{folder}: {older.changes(files).text()} since it was decoded: decoding it again")
        try:
            _decode(folder, paths, audio, index, config, progress, facts={"made_of": made_of, "files": files})
        except OSError as error:
            raise InputError(f"{cache_folder}: can't hold the decoded audio: {error.strerror or error}") from error
        older.remove()
    content = json.loads(index.read_text(encoding="utf-8"))
    return audio, sources_of(content["sources"]), [Skipped(**one) for one in content["skipped"]]


def _refuse_strange_shares(folder: Path, sources: tuple[Source, ...], data: DataConfig) -> None:
    there = {top_folder(source) for source in sources if source.split == "train"}
    strange = sorted(data.shares.keys() - there)
    if strange:
        raise InputError(f"{folder}: data.shares: nothing to train on in a folder {strange[0]}")


def _why(sources: tuple[Source, ...], skipped: list[Skipped]) -> str:
    reasons = Counter(item.reason for item in skipped) + Counter(f"in a {one.split} folder" for one in sources)
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))


def _made_of(folder: Path, config: Config) -> dict[str, Any]:
    return {"folder": str(folder.resolve()), "format": CACHE_FORMAT, "sample_rate": config.spectrogram.sample_rate}


def _fingerprint(folder: Path, files: Files, config: Config) -> str:
    """Names a cache. Where the folder lies has no part in it: folders may be moved.

    Files of two folders may agree in names, sizes and times, as those of archives do: some are looked into.
    """
    text = json.dumps([CACHE_FORMAT, config.spectrogram.sample_rate, files])
    digest = hashlib.sha256(text.encode())
    for name in list(files)[:: -(-len(files) // FILES_LOOKED_INTO)]:
        with suppress(OSError), (folder / name).open("rb") as file:
            file.seek(files[name][0] // 2)
            digest.update(file.read(BYTES_LOOKED_AT))
    return digest.hexdigest()[:16]


def _is_whole(audio: Path, index: Path) -> bool:
    """Whether both files are there, and neither was cut, damaged or removed since."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        sources, _ = sources_of(content["sources"]), [Skipped(**one) for one in content["skipped"]]
        return audio.stat().st_size == 2 * sum(source.samples for source in sources)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _decode(
    folder: Path,
    paths: list[Path],
    audio: Path,
    index: Path,
    config: Config,
    progress: OnProgress,
    *,
    facts: dict[str, Any],
) -> None:
    """Writes both files of a cache, each whole: the index, which says that the audio is there, last."""
    audio.parent.mkdir(parents=True, exist_ok=True)
    sources: list[Source] = []
    skipped: list[Skipped] = []
    offset = 0
    with temporary_folder(audio.parent) as partial:
        with (partial / "audio").open("wb") as out, closing(_decoded(paths, config)) as results:
            for done, (path, result) in enumerate(results, start=1):
                name = path.relative_to(folder).as_posix()
                if isinstance(result, str):
                    skipped.append(Skipped(name, result))
                else:
                    samples, level_db = result
                    out.write(samples.tobytes())
                    sources.append(Source(name, offset, len(samples), level_db))
                    offset += len(samples)
                progress(done, len(paths))
            os.fsync(out.fileno())  # the index says that it is there, and must be true after a power cut too
        content = facts | {"sources": [asdict(one) for one in sources], "skipped": [asdict(item) for item in skipped]}
        (partial / "index").write_text(json.dumps(content), encoding="utf-8")
        (partial / "audio").replace(audio)
        (partial / "index").replace(index)


def _decoded(paths: list[Path], config: Config) -> Generator[tuple[Path, tuple[np.ndarray, float] | str], None, None]:
    """Decodes in threads, in order, a few files ahead, so that memory stays bounded however many there are."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            started = ((path, threads.submit(_decode_file, path, config)) for path in paths)
            waiting = deque(islice(started, FILES_AHEAD))
            while waiting:
                path, result = waiting.popleft()
                yield path, result.result()
                waiting.extend(islice(started, 1))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _decode_file(path: Path, config: Config) -> tuple[np.ndarray, float] | str:
    """Mono samples, the loudest at full scale, and their level; or the reason why the file is left out."""
    meter, blocks = LevelMeter(config.spectrogram.sample_rate), []
    try:
        for block in AudioFile(path).blocks(config.spectrogram.sample_rate, BLOCK_SAMPLES):
            mono = block.mean(0, keepdim=True)
            meter.add(mono)
            blocks.append(mono[0].numpy())
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    if meter.level_db < SILENT_BELOW_DB:
        return "silent"
    blocks = [block - np.float32(float(meter.offset)) for block in blocks] if meter.offset else blocks
    # Floats may exceed full scale, 16 bits may not. And of what is quiet in floats or 24 bits, 16 would keep little but
    # noise of their own, as loud as music once segments have the model's level. The level that is kept follows.
    scale = max(float(np.abs(block).max()) for block in blocks)
    samples = np.concatenate([(block / np.float32(scale) * 32767).round().astype("<i2") for block in blocks])
    return samples, meter.level_db - 20 * float(np.log10(scale))


def segment_samples(config: Config, latent_frames: int | None = None) -> int:
    """Samples of a training segment: its frames, and the context of the first and the last of them."""
    frames = (latent_frames or config.data.segment_latent_frames) * config.model.time_stride
    return (frames - 1) * config.spectrogram.hop_length + config.spectrogram.n_fft
