"""``audiovae interpolate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiovae.cli import options
from audiovae.cli.report import Report, names
from audiovae.cli.results import result_folder
from audiovae.errors import InputError
from audiovae.json_text import to_json

if TYPE_CHECKING:
    from audiovae.cli.sound_folder import Sound
    from audiovae.codec import Codec
    from audiovae.latents import Latents

DEFAULT_STEPS, MOST_STEPS = 9, 1000
LARGEST_WEIGHT = 100.0
"""Of either sign; far less is noise already."""


def interpolate(
    clips: Annotated[list[Path], options.PathArgument(metavar="A B [C D ...]", help="Two or more recordings.")],
    out: options.FolderOption,
    steps: Annotated[
        int | None,
        typer.Option(min=2, max=MOST_STEPS, help="Files along the path, its two ends included.", show_default="9"),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(
            help="A place between A (0) and B (1), or beyond; repeatable. With more clips, one for each: blends them."
        ),
    ] = None,
    curve: Annotated[
        str | None, typer.Option(metavar="T:W,...", help='One file that moves in time, as in "0:0,1:1" or "0s:0,3s:1".')
    ] = None,
    path: Annotated[
        options.PathShape,
        typer.Option(help="Way through the latents; linear: in-betweens are duller than the ends, the others are not."),
    ] = "normalised",
    fit: Annotated[options.Fit, typer.Option(help="How clips of different lengths are matched.")] = "stretch",
    align: Annotated[
        options.Align,
        typer.Option(
            help="pitch: tones glide to their counterparts; time: onsets move to theirs; both; none: crossfade."
        ),
    ] = "both",
    format: options.FormatOption = "wav",
    checkpoint: options.CheckpointOption = None,
    device: options.DeviceOption = "auto",
    quality: options.QualityOption = "standard",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Write the sounds that lie between recordings, a picture of them, and path.json."""
    files = _file_names(len(clips), steps, weight, curve, format)
    joined = None if weight or curve else f"path.{format}"
    made = [*files, *([joined] if joined else []), "path.png", "path.json"]
    report = Report(as_json=as_json, quiet=quiet)
    if curve is not None:
        # Parsed again later: a mistyped one is refused before any work.
        from audiovae.curve import Curve

        try:
            Curve.parse(curve)
        except InputError as error:
            raise typer.BadParameter(str(error), param_hint="--curve") from error
    with result_folder(out, made, force=force) as folder:
        from audiovae.cli.sound_folder import say_gains
        from audiovae.codec import load

        codec = load(checkpoint, device=device)
        inputs = [codec.encode(clip) for clip in clips]
        how = {"path": path, "fit": fit, "align": align}
        sounds = _sounds(codec, inputs, files, weight, curve, how=how)
        facts = how | {"quality": quality, "format": format}
        facts = _write(codec, inputs, sounds, folder, settings=facts, joined=joined, report=report)
    say_gains(report, facts["files"])
    shown = ", ".join([names(files), *made[len(files) :]])
    report.finish(f"wrote {out}: {shown}", facts | {"written": [str(out / file) for file in facts["written"]]})


def _file_names(
    clips: int, steps: int | None, weights: list[float] | None, curve: str | None, suffix: str
) -> list[str]:
    """The sounds' file names; wrong usage raises BadParameter."""
    if clips < 2:
        raise typer.BadParameter("wants at least two recordings", param_hint="A B [C D ...]")
    if (steps is not None) + bool(weights) + (curve is not None) > 1:
        raise typer.BadParameter("only one of these can be given", param_hint="--steps, --weight, --curve")
    if curve is not None:
        if clips > 2:
            raise typer.BadParameter("goes between two recordings only", param_hint="--curve")
        return [f"curve.{suffix}"]
    if weights and not all(abs(one) <= LARGEST_WEIGHT for one in weights):
        raise typer.BadParameter(f"must be -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}", param_hint="--weight")
    if weights and clips > 2:
        if len(weights) != clips:
            raise typer.BadParameter(f"{len(weights)} given for {clips} recordings", param_hint="--weight")
        return [f"blend.{suffix}"]
    if weights:
        if len(set(weights)) < len(weights):
            raise typer.BadParameter("the same one is given twice", param_hint="--weight")
        return [f"weight_{_number(weight)}.{suffix}" for weight in weights]
    count = steps or DEFAULT_STEPS
    width = max(2, len(str(count - 1)))
    return [f"{index:0{width}}.{suffix}" for index in range(count)]


def _number(value: float) -> str:
    """Two decimals, or as many as the number has, so that no two weights give one file name."""
    value += 0.0  # -0 is 0
    return f"{value:.2f}" if float(f"{value:.2f}") == value else f"{value!r}"


def _sounds(
    codec: "Codec",
    inputs: list["Latents"],
    files: list[str],
    weights: list[float] | None,
    curve: str | None,
    *,
    how: dict[str, Any],
) -> list["Sound"]:
    """The sounds in the order of their file names; ``how`` holds the options of ``interpolation``."""
    from audiovae.cli.sound_folder import Sound
    from audiovae.curve import Curve
    from audiovae.interpolation import Morph

    morph, path = Morph(inputs, fit=how["fit"], align=how["align"], codec=codec), how["path"]
    if curve is not None:
        moved = morph.along(Curve.parse(curve), path=path)
        return [Sound(files[0], moved, label=curve, facts={"curve": curve})]
    sounds = []
    for name, shares in zip(files, _shares(len(inputs), len(files), weights), strict=True):
        facts: dict[str, Any] = {"weights": shares}
        if len(inputs) == 2:
            facts = {"weight": shares[1]} | facts
        sounds.append(Sound(name, morph.at(shares, path=path), label=_label(shares, is_step=not weights), facts=facts))
    return sounds


def _shares(clips: int, files: int, weights: list[float] | None) -> list[list[float]]:
    """Each file's weights of the clips: on the way from one clip to the next all others have 0."""
    if weights and clips > 2:
        return [weights]
    if weights:
        return [[1 - weight, weight] for weight in weights]
    shares = []
    for index in range(files):
        place = index * (clips - 1) / (files - 1)
        left = min(int(place), clips - 2)
        shares.append([0.0] * left + [1 - (place - left), place - left] + [0.0] * (clips - 2 - left))
    return shares


def _label(shares: list[float], *, is_step: bool) -> str:
    """The place on the path, where 1 is the second clip and 2 the third, or a blend's weights."""
    if is_step or len(shares) == 2:
        return f"{sum(index * share for index, share in enumerate(shares)):.2f}"
    return "  ".join(f"{share:g}" for share in shares)


def _write(
    codec: "Codec",
    inputs: list["Latents"],
    sounds: list["Sound"],
    folder: Path,
    *,
    settings: dict[str, Any],
    joined: str | None,
    report: Report,
) -> dict[str, Any]:
    """Writes all files of the folder and returns what path.json says."""
    from audiovae.cli.sound_folder import describe_codec, describe_input, write_sounds

    title = " to ".join(Path(one.source).stem for one in inputs) + f"  ({settings['path']} path)"
    with report.progress("decoding") as advance:
        files = write_sounds(
            codec,
            sounds,
            folder,
            picture="path.png",
            title=title,
            quality=settings["quality"],
            advance=advance,
            joined=joined,
        )
    written = [file["name"] for file in files] + ["path.png", "path.json"]
    made_from = {"inputs": [describe_input(one) for one in inputs], "settings": settings}
    facts = describe_codec(codec) | made_from | {"files": files, "written": written}
    (folder / "path.json").write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
    return facts
