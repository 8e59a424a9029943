"""``python -m audiovae``."""

from audiovae.cli import main

if __name__ == "__main__":
    main()
