"""``audiovae reconstruct`` and ``audiovae generate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiovae.cli import options
from audiovae.cli.report import Report, names
from audiovae.cli.results import result_folder
from audiovae.json_text import to_json

if TYPE_CHECKING:
    from audiovae.codec import Codec

DEFAULT_SECONDS, DEFAULT_AMOUNT = 4.0, 0.3
MOST_SOUNDS = 10_000
SHORTEST_SECONDS, LONGEST_SECONDS = 0.05, 3600.0  # as in generation, which is too heavy to import for this


def reconstruct(
    recording: Annotated[Path, options.PathArgument(metavar="IN", help="A recording.")],
    out: Annotated[Path, options.PathOption(metavar="FILE", help="Audio file to write: .wav, .flac, .ogg or .mp3.")],
    checkpoint: options.CheckpointOption = None,
    device: options.DeviceOption = "auto",
    quality: options.QualityOption = "standard",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Send a recording through the model and back: what the model keeps of it."""
    from audiovae.audio import check_target
    from audiovae.cli.sound_folder import describe_codec, describe_input, say_gains
    from audiovae.codec import load

    check_target(out, force=force)
    report = Report(as_json=as_json, quiet=quiet)
    codec = load(checkpoint, device=device)
    latents = codec.encode(recording)
    gain_db = codec.save(latents, out, quality=quality, force=force)
    say_gains(report, [{"name": out, "gain_db": gain_db}])
    facts = describe_codec(codec) | {"input": describe_input(latents), "settings": {"quality": quality}}
    report.finish(f"wrote {out}", facts | {"gain_db": gain_db, "written": [str(out)]})


def generate(
    out: options.FolderOption,
    count: Annotated[int, typer.Option(min=1, max=MOST_SOUNDS, help="Number of sounds.")] = 8,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of each; with --like it is the clip's.", show_default="4")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other sounds.")] = 0,
    like: Annotated[Path | None, options.PathOption(metavar="CLIP", help="Make variations of this recording.")] = None,
    amount: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="How far from it: 0 is its reconstruction, 1 a new sound of its kind.",
            show_default="0.3",
        ),
    ] = None,
    format: options.FormatOption = "wav",
    checkpoint: options.CheckpointOption = None,
    device: options.DeviceOption = "auto",
    quality: options.QualityOption = "standard",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Write new sounds: samples of the model's prior, or variations of a recording."""
    settings = _settings(duration, like, amount, seed) | {"quality": quality, "format": format}
    width = max(2, len(str(count - 1)))
    files = [f"{index:0{width}}.{format}" for index in range(count)]
    report = Report(as_json=as_json, quiet=quiet)
    with result_folder(out, [*files, "generate.png", "generate.json"], force=force) as folder:
        from audiovae.cli.sound_folder import say_gains
        from audiovae.codec import load

        facts = _generate(load(checkpoint, device=device), files, folder, settings, report)
    say_gains(report, facts["files"])
    facts |= {"written": [str(out / file) for file in facts["written"]]}
    report.finish(f"wrote {out}: {names(files)}, generate.png, generate.json", facts)


def _settings(duration: float | None, like: Path | None, amount: float | None, seed: int) -> dict[str, Any]:
    """What the sounds depend on; wrong usage raises BadParameter."""
    if like is None:
        if amount is not None:
            raise typer.BadParameter("says how far to go from --like, which is missing", param_hint="--amount")
        seconds = DEFAULT_SECONDS if duration is None else duration
        if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
            limits = f"{SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} seconds"
            raise typer.BadParameter(f"must be {limits}", param_hint="--duration")
        return {"seed": seed, "duration_seconds": seconds}
    if duration is not None:
        raise typer.BadParameter("a variation is as long as --like", param_hint="--duration")
    return {"seed": seed, "like": str(like), "amount": DEFAULT_AMOUNT if amount is None else amount}


def _generate(
    codec: "Codec", files: list[str], folder: Path, settings: dict[str, Any], report: Report
) -> dict[str, Any]:
    """Writes all files of the folder and returns what generate.json says."""
    from audiovae.cli.sound_folder import Sound, describe_codec, write_sounds
    from audiovae.generation import generate as draw

    wanted = {name: settings[name] for name in ("seed", "duration_seconds", "amount") if name in settings}
    like = codec.encode(settings["like"]) if "like" in settings else None
    title = f"variations of {Path(like.source).stem}, amount {settings['amount']:g}" if like else "samples of the prior"
    sounds = []
    with report.progress("drawing") as advance:
        for index, name in enumerate(files):
            advance(index, len(files))
            latents = draw(codec, index=index, like=like, **wanted)
            sounds.append(Sound(name, latents, label=Path(name).stem, facts={"index": index}))
    with report.progress("decoding") as advance:
        made = write_sounds(
            codec,
            sounds,
            folder,
            picture="generate.png",
            title=f"{title}  (seed {settings['seed']})",
            quality=settings["quality"],
            advance=advance,
            faded=like is None,
        )
    written = [*files, "generate.png", "generate.json"]
    facts = describe_codec(codec) | {"settings": settings, "files": made, "written": written}
    (folder / "generate.json").write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
    return facts
