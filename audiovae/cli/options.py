"""The options that several commands have in common."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, no_type_check

import typer

# The same words as in codec, alignment and interpolation, which are too heavy to import for --help.
Device = Literal["auto", "cpu", "cuda"]
Quality = Literal["draft", "standard", "best"]
PathShape = Literal["normalised", "linear", "spherical"]
Fit = Literal["stretch", "loop", "trim"]
Align = Literal["both", "pitch", "time", "none"]
Format = Literal["wav", "flac", "ogg", "mp3"]


def _path(text: str | Path) -> Path:
    """A path. An empty one (a script's unset variable) would mean the working folder, s3://a a folder called s3:."""
    if not str(text):
        raise typer.BadParameter("is empty: name a file or folder")
    if "://" in str(text):
        raise typer.BadParameter(f"{text}: name a file or folder of this machine")
    return Path(text)


# With a parser of our own: typer would call a path that can't be read wrong usage; whoever reads it says more.
PathArgument, PathOption = partial(typer.Argument, parser=_path), partial(typer.Option, parser=_path)


@no_type_check  # what typer hands over as its Context is none to isinstance
def _remember_debug(context: typer.Context, wanted: bool) -> bool:
    context.meta["debug"] = wanted
    return wanted


CheckpointOption = Annotated[
    Path | None, PathOption("--checkpoint", metavar="FILE", help="Model to use.", show_default="the bundled one")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute; auto: CUDA if available.")]
QualityOption = Annotated[Quality, typer.Option("--quality", help="Effort spent on reconstructing the phase.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Format of the audio files.")]
FolderOption = Annotated[Path, PathOption("--out", metavar="DIR", help="Folder for the results; made if missing.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite files of the same name.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress; print only the last line.")]
DebugOption = Annotated[
    bool, typer.Option("--debug", hidden=True, callback=_remember_debug, help="Show the traceback of an error.")
]
