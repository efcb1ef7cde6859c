"""The command `s3lora`, which is also `python -m s3lora`."""

import sys

from s3lora._interrupt import INTERRUPTED


def main() -> None:
    """Import the command line and run it; Ctrl-C before it runs ends with 130."""
    try:
        from s3lora.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
    command_line()


if __name__ == "__main__":
    main()
