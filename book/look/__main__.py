"""Look at a process, from a bare checkout: `python3 book/look PID`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # what holds this package

from look.command import main  # noqa: E402

sys.exit(main())
