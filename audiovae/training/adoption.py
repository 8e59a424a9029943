"""A run made from a finished model, to train its prior on other sounds."""

from pathlib import Path

from audiovae.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from audiovae.errors import InputError
from audiovae.folder_lock import LOCK, locked
from audiovae.training.run import (
    CONFIG_FILE,
    Run,
    load_start,
    prepare_folder,
    refuse_another_model,
    remove_abandoned,
    require_folder,
)
from audiovae.training.state import LOG_FILE, MODEL_FILE, STATE_FILE


def adopted_run(
    folder: Path, overrides: list[str], *, start: Path, data: Path | None, cache: Path | None = None
) -> Run:
    """A run whose model is the checkpoint ``start``, which is not trained further. A folder begun in this way goes on.

    The model's own ``data.shares`` name folders of other data, and are left out.

    Raises InputError for a checkpoint, data or a folder that can't be used, such as one where a model was trained.
    """
    checkpoint = load_start(start)
    if data is None:
        raise InputError(f"{start}: give the sounds that its prior is to be trained on: --data DIR")
    require_folder(data)
    settings = checkpoint.config.with_overrides(["data.shares={}", *overrides])
    refuse_another_model(settings, checkpoint.config, str(start))
    run = Run(folder, settings, data, cache or folder.absolute().parent / "cache", resumed=True)
    with locked(folder):
        remove_abandoned(folder)
        _refuse_used(folder, checkpoint, start)
        prepare_folder(run)
        if not (folder / MODEL_FILE).exists():
            save_checkpoint(folder / MODEL_FILE, model=checkpoint.model, prior=checkpoint.prior, facts=checkpoint.facts)
    return run


def _refuse_used(folder: Path, checkpoint: Checkpoint, start: Path) -> None:
    there = {path.name for path in folder.iterdir()} - {LOCK}
    if there & {STATE_FILE, LOG_FILE}:
        raise InputError(f"{folder}: a model was trained here: leave out --from to give that one a prior")
    if there and CONFIG_FILE not in there:
        raise InputError(f"{folder}: not empty, and not begun by this command: use another folder")
    model = folder / MODEL_FILE
    if model.exists() and load_checkpoint(model).fingerprint != checkpoint.fingerprint:
        raise InputError(f"{model}: is not the model {start}: use another folder")
