"""A run from its folder: new or resumed, alone or under torchrun. The command line needs nothing else of training."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from audiovae.checkpoint import TUNED_ON, Checkpoint, Facts, load_checkpoint
from audiovae.codec import BUNDLED_CHECKPOINT
from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.folder_lock import LOCK, locked
from audiovae.training.data import Cache, open_cache
from audiovae.training.older_caches import in_use
from audiovae.training.state import BOARD_FOLDER, LOG_FILE, MODEL_FILE, STATE_FILE
from audiovae.whole_file import whole_file

if TYPE_CHECKING:
    from audiovae.training.loop import Progress
    from audiovae.training.validation import Validation

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent.parent / "configs"
CONFIG_FILE, FOLDERS_FILE = "config.json", "folders.json"
RESULTS = (LOG_FILE, MODEL_FILE, STATE_FILE, BOARD_FOLDER)
"""What a new run removes from its folder before it begins."""
PRIOR_STATE = "prior-*.safetensors"
"""State of a prior's training; the star stands for the fingerprint of its model."""
PRIOR_STATES = PRIOR_STATE.replace("*", "[0-9a-f]" * 16)
"""A pattern for all of these that matches no name that a user would choose."""
DECODING_TIMEOUT = timedelta(hours=12)
"""How long the other processes wait for the first one to decode the data."""


@dataclass(frozen=True)
class Run:
    """What a training works on."""

    folder: Path
    config: Config
    data: Path
    cache: Path
    resumed: bool = False
    """Whether it continues from the folder's newest state."""
    start: Checkpoint | None = None
    """The model that a new run tunes further; None starts from principal components of the data."""
    learnt_before: str = ""
    """In words, what the model that is tuned had learnt from."""
    force: bool = False
    """Whether a new run may replace one that is in the folder."""


@dataclass(frozen=True)
class Watch:
    """What a training tells while it runs, in its first process only."""

    decoded: Callable[[int, int], None] = lambda done, total: None
    """Files of the data, of how many."""
    opened: Callable[[Cache], None] = lambda cache: None
    stepped: Callable[["Progress"], None] = lambda progress: None


@dataclass(frozen=True)
class Outcome:
    """How a training ended, in this process."""

    is_main: bool
    """Whether this is the first process, which writes and speaks for all."""
    step: int
    """Steps that are done."""
    is_finished: bool
    """Whether no step is left; False where time was up before."""
    validation: "Validation | None"
    """The last one; None in the other processes, and where none was due."""


def bundled_configs() -> list[str]:
    """Names of the configs in the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def find_config(name: str) -> Path:
    """The TOML file of a path, or of the name of a bundled config. Raises InputError that lists those."""
    if Path(name).is_file():
        return Path(name)
    if name in bundled_configs():
        return CONFIGS / f"{name}.toml"
    raise InputError(
        f"{name}: neither a file nor a bundled config ({', '.join(bundled_configs()) or 'there are none'})"
    )


def load_start(start: Path) -> Checkpoint:
    """The model that --from or --flow names; "bundled" is the one in the package."""
    return load_checkpoint(BUNDLED_CHECKPOINT if start == Path("bundled") else start)


def new_run(
    config: str,
    overrides: list[str],
    *,
    data: Path,
    folder: Path,
    cache: Path | None = None,
    start: Path | None = None,
    force: bool = False,
) -> Run:
    """A run that starts at step 0, from the checkpoint ``start`` if there is one; ``force`` lets it replace the run
    in its folder.

    Raises InputError for a config, checkpoint or folder that can't be used. Only ``train`` changes anything on disk.
    """
    settings = Config.from_toml(find_config(config), overrides)
    checkpoint = load_start(start) if start else None
    if checkpoint:
        # A VAE's weights make a plain autoencoder too, which shows what the KL cost; an autoencoder's make no VAE.
        plain = [] if settings.model.variational else ["model.variational=false"]
        refuse_another_model(settings, checkpoint.config.with_overrides(plain), str(start))
    require_folder(data)
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{folder}: has a name that is no text, in which TensorBoard can't write") from error
    # Under torchrun the first process may have begun: the others must not take its run for an older one.
    if _is_first_process():
        _refuse_used(folder, force=force)
    cache, before = cache or folder.absolute().parent / "cache", checkpoint.facts.model_data if checkpoint else ""
    return Run(folder, settings, data, cache, start=checkpoint, learnt_before=before, force=force)


def resumed_run(folder: Path, overrides: list[str], *, data: Path | None = None, cache: Path | None = None) -> Run:
    """A run that continues, with the config and folders that it started with unless others are given."""
    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
        folders = json.loads((folder / FOLDERS_FILE).read_text(encoding="utf-8"))
        data, cache = data or Path(folders["data"]), cache or Path(folders["cache"])
        learnt_before = folders.get("learnt_before") or ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: not a run that can be resumed: {_reason(error)}") from error
    config = Config.from_json(text, folder / CONFIG_FILE)
    settings = config.with_overrides(overrides)
    refuse_another_model(settings, config, f"{folder}")
    return Run(folder, settings, data, cache, resumed=True, learnt_before=learnt_before)


def train(run: Run, *, device: str = "auto", watch: Watch = Watch(), minutes: float | None = None) -> Outcome:
    """Decodes the data if that isn't done, and trains to the last step. Under torchrun each process calls it.

    After ``minutes``, decoding included, it saves its state and ends, so that a later run can go on.

    Raises InputError for data, folders or a device that can't be used, where the packages of the extra ``train``
    are missing, and when it is interrupted (its words say how to resume).
    """
    ends_at = None if minutes is None else time.monotonic() + 60 * minutes
    require(device)
    from accelerate import PartialState

    from audiovae.training.loop import Trainer, is_cpu

    processes, alone = PartialState(cpu=is_cpu(device), timeout=DECODING_TIMEOUT), ExitStack()
    try:
        with processes.main_process_first():
            # The others find the cache complete, and only open it.
            cache = open_cache(run.data, run.cache, run.config, progress=watch.decoded)
            alone.enter_context(in_use(cache.audio))
            if processes.is_main_process:
                alone.enter_context(locked(run.folder))
                if not run.resumed:
                    _refuse_run(run.folder, force=run.force)  # another process may have been faster
                prepare_folder(run)
                watch.opened(cache)
        trainer = Trainer(run.config, cache, run.folder, device=device, facts=_facts(run, cache))
        if run.resumed:
            trainer.resume()
            if processes.is_main_process and trainer.position.step < run.config.training.steps:
                _warn_of_a_flow(run)
        elif run.start:
            trainer.start_from(run.start)
        stop = None if ends_at is None else lambda: time.monotonic() >= ends_at
        validation = trainer.train(watch.stepped, stop=stop)
        step = trainer.position.step
        return Outcome(processes.is_main_process, step, step >= run.config.training.steps, validation)
    finally:
        alone.close()
        processes.destroy_process_group()


def require_folder(data: Path) -> None:
    """Raises InputError unless the data are a folder."""
    if not data.is_dir():
        raise InputError(f"{data}: {'is a file, not a folder' if data.exists() else 'no such folder'}")


def require(device: str) -> None:
    """Raises InputError where the packages of the extra ``train``, or the device, are missing."""
    if not (find_spec("accelerate") and find_spec("tensorboard")):
        raise InputError('training needs more packages: pip install "audiovae[train]"')
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch finds no CUDA device here")


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def refuse_another_model(wanted: Config, there: Config, source: str) -> None:
    """Training on changes weights only: settings that ask for another model must not be ignored."""
    for section in ("spectrogram", "model"):
        ours, theirs = getattr(wanted, section), getattr(there, section)
        for field in type(ours).model_fields:
            if getattr(ours, field) != getattr(theirs, field):
                raise InputError(
                    f"{source}: its {section}.{field} is {getattr(theirs, field)}, not {getattr(ours, field)}: "
                    "a model with other settings must be trained from scratch"
                )


def _warn_of_a_flow(run: Run) -> None:
    if (run.folder / MODEL_FILE).exists() and load_checkpoint(run.folder / MODEL_FILE).prior.flow:
        logger.warning(f"{run.folder}: train-prior's flow fits the present weights only: run train-prior again")


def _refuse_used(folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder")
    _refuse_run(folder, force=force)
    there = {path.name for path in folder.iterdir()} - {LOCK} if folder.exists() else set()
    if CONFIG_FILE in there:
        return
    if taken := there & set(RESULTS):
        raise InputError(f"{folder / min(taken)}: is there, and not a run's: use another folder")
    elif there and not force:
        raise InputError(f"{folder}: not empty, and no run: use another folder (--force: beside what is there)")


def _refuse_run(folder: Path, *, force: bool) -> None:
    if (folder / CONFIG_FILE).exists() and not force:
        goes_on = f"--resume {folder} continues the run in it, " if (folder / STATE_FILE).exists() else ""
        raise InputError(f"{folder}: not empty ({goes_on}--force replaces it)")


def prepare_folder(run: Run) -> None:
    """Writes what a later --resume needs; a new run first removes what an older one left, and nothing else."""
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(run.folder)
        if not run.resumed:
            for left in (*map(run.folder.joinpath, RESULTS), *run.folder.glob(PRIOR_STATES)):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
        folders = {"data": str(run.data.absolute()), "cache": str(run.cache.absolute())}
        folders["learnt_before"] = run.learnt_before
        _write_whole(run.folder / CONFIG_FILE, run.config.model_dump_json(indent=2))
        _write_whole(run.folder / FOLDERS_FILE, json.dumps(folders, indent=2))
    except OSError as error:
        raise InputError(f"{run.folder}: can't be written: {error.strerror}") from error


def remove_abandoned(folder: Path) -> None:
    """Removes what a process that was killed left behind in a run's folder."""
    for name in (MODEL_FILE, STATE_FILE, PRIOR_STATES):
        for left in folder.glob(f".{name}.*.tmp"):
            left.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    with whole_file(path, force=True) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _facts(run: Run, cache: Cache) -> Facts:
    before = run.learnt_before + TUNED_ON if run.learnt_before else ""
    return Facts(version=version("audiovae"), data=before + data_words(run, cache))


def data_words(run: Run, cache: Cache) -> str:
    """What a checkpoint says of the sounds that it learnt from."""
    used = cache.split("train")
    hours = sum(source.samples for source in used) / run.config.spectrogram.sample_rate / 3600
    return f"{run.data.absolute().name}: {len(used)} files, {hours:.2f} hours"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"it has no {Path(error.filename).name}"
    return getattr(error, "strerror", None) or f"{FOLDERS_FILE} can't be read"
