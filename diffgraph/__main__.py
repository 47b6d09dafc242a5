"""`diffgraph`, and `python -m diffgraph`. Imports nothing before Ctrl-C is answered as it is later."""

from __future__ import annotations

import sys


def main() -> None:
    """The command line, whose imports can be interrupted, too: exit code 130 and no traceback."""
    try:
        from .cli import main as command

        command(prog_name="diffgraph")
    except KeyboardInterrupt:
        sys.stderr.write("diffgraph: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
