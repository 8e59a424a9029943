"""What each setting bought, and what more training buys: runs side by side, by their logs.

    python tests/benchmarks/ablations.py RUN... [--curve RUN] [--write DOCUMENT]

Each RUN is a folder that `audiovae train` made. A row of `ablations` says in which settings the run differs from the
first one, and its last validation: mean absolute error of the log bands on held-out audio (no Griffin-Lim), KL and
active channels. A row of `curve` is a validation on the way of one run, with the hours of audio heard until then.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from document import table, write_block

from audiovae.config import Config


def differences(config: dict[str, Any], first: dict[str, Any]) -> str:
    """The settings that aren't the first run's, as --set would have them."""
    changed = [
        f"{field}={json.dumps(value)}"
        for section, fields in config.items()
        for field, value in fields.items()
        if value != first[section][field] and field not in ("seed", "validate_every", "checkpoint_every")
    ]
    return ", ".join(changed) or "as the config"


def validations(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """Step and figures of each."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(one["step"], one["validation"]) for one in rows if "validation" in one]


def curve(run: Path) -> str:
    """Error against the audio that was heard."""
    config = Config.from_json((run / "config.json").read_text(encoding="utf-8"), run / "config.json")
    segment_seconds = config.data.segment_latent_frames / config.latent_rate
    hours = config.training.batch_size * segment_seconds / 3600
    rows = [[str(step), f"{step * hours:.1f}", f"{one['error_db']:.2f}"] for step, one in validations(run)]
    return table(["step", "hours of audio heard", "held-out error, dB"], rows)


def row(run: Path, first: dict[str, Any]) -> list[str]:
    """A run's line of the table."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    step, last = validations(run)[-1]
    active = f"{last['active_units']} of {last['channels']}"
    return [run.name, differences(config, first), str(step), f"{last['error_db']:.2f}", f"{last['kl']:.0f}", active]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--curve", type=Path, metavar="RUN", help="show this run's way")
    parser.add_argument("--write", type=Path, help="a document with a block for this table")
    options = parser.parse_args()
    first = json.loads((options.runs[0] / "config.json").read_text(encoding="utf-8"))
    heads = ["run", "what differs from the first", "steps", "held-out error, dB", "KL, nats a latent frame", "active"]
    blocks = {"ablations": table(heads, [row(run, first) for run in options.runs])}
    if options.curve:
        blocks["curve"] = curve(options.curve)
    for name, text in blocks.items():
        print(text, end="\n\n")
        if options.write and f"<!-- {name} -->" in options.write.read_text(encoding="utf-8"):
            write_block(options.write, name, text)


if __name__ == "__main__":
    main()
