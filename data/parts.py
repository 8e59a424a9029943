"""Send a large file as parts of at most 15 MiB, and join them again; checksums say whether all arrived.

python data/parts.py split runs/mine/state.safetensors parts
python data/parts.py join parts/state.safetensors.json runs/mine/state.safetensors
"""

import argparse
import hashlib
import json
from pathlib import Path

from audiovae.errors import InputError
from audiovae.whole_file import whole_file
from corpus import above_zero, errors_told


def split(path: Path, folder: Path, part_bytes: int) -> list[Path]:
    """Cut a file into parts beside a list of their checksums; returns the parts. Raises InputError if it can't."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if part_bytes < 1:
        raise InputError(f"{path}: parts of {part_bytes} bytes hold nothing")
    folder.mkdir(parents=True, exist_ok=True)
    parts, whole = [], hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(part_bytes):
            whole.update(block)
            part = folder / f"{path.name}.{len(parts):03d}"
            part.write_bytes(block)
            parts.append(part)
    listed = [{"file": part.name, "sha256": _digest(part), "bytes": part.stat().st_size} for part in parts]
    content = {"file": path.name, "bytes": path.stat().st_size, "sha256": whole.hexdigest(), "parts": listed}
    (folder / f"{path.name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return parts


def join(listing: Path, path: Path, *, force: bool = False) -> None:
    """Put a file together again. Raises InputError that names each part that is missing or damaged."""
    try:
        content = json.loads(listing.read_text(encoding="utf-8"))
        parts = [(listing.parent / part["file"], part["sha256"]) for part in content["parts"]]
        size, checksum_of_all = int(content["bytes"]), str(content["sha256"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{listing}: not a list of parts: {error}") from error
    missing = [part.name for part, _ in parts if not part.is_file()]
    damaged = [part.name for part, checksum in parts if part.is_file() and _digest(part) != checksum]
    for reason, names in (("missing", missing), ("damaged", damaged)):
        if names:
            raise InputError(f"{listing}: {len(names)} of {len(parts)} parts {reason}: {', '.join(names)}")
    whole = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, force=force) as temporary, temporary.open("wb") as out:
        for part, _ in parts:
            block = part.read_bytes()
            whole.update(block)
            out.write(block)
        if (out.tell(), whole.hexdigest()) != (size, checksum_of_all):
            raise InputError(f"{listing}: the parts are whole, but not those of {content['file']}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    cut = actions.add_parser("split", help="cut FILE into parts in OUT")
    cut.add_argument("file", type=Path, metavar="FILE")
    cut.add_argument("out", type=Path, metavar="OUT")
    cut.add_argument("--mib", type=above_zero, default=15.0, help="largest part (default 15)")
    put = actions.add_parser("join", help="put a file together again")
    put.add_argument("listing", type=Path, metavar="LIST", help="the .json beside the parts")
    put.add_argument("file", type=Path, metavar="FILE")
    put.add_argument("--force", action="store_true", help="replace FILE")
    return parser.parse_args(arguments)


@errors_told()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.action == "split":
        parts = split(options.file, options.out, round(options.mib * 2**20))
        print(f"wrote {options.out}: {len(parts)} parts of {options.file.name}, and {options.file.name}.json")
    else:
        join(options.listing, options.file, force=options.force)
        print(f"wrote {options.file}")


if __name__ == "__main__":
    main()
