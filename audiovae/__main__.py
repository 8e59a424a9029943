"""``python -m audiovae``, and the ``audiovae`` command."""

import sys


def main() -> None:
    """Runs the command; an interrupt gets its line even before there are commands."""
    try:
        from audiovae.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("audiovae: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
