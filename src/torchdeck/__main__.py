"""``python -m torchdeck`` is the command ``torchdeck``."""

import sys

from torchdeck.tui.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
