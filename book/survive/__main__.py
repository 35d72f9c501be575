"""Say which awkward clients there are, from a bare checkout: `python3 book/survive`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # what holds this package

from survive.command import main  # noqa: E402

sys.exit(main())
