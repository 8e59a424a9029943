"""Puts what a benchmark printed into a document, between the two comments that carry its name."""

import re
from pathlib import Path


def write_block(document: Path, name: str, text: str) -> None:
    """Replaces what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    old = document.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(old):
        raise SystemExit(f"{document}: has no {begin} … {end}")
    new = pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", old)
    document.write_text(new, encoding="utf-8")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
