"""The laboratory: what the notebooks import to run a server, play a client and ask the kernel.

server    a server in a background process         kernel    what the kernel says of it
clients   a plain client, and the awkward ones     record    everything a run did, on one clock
survival  every server against every client        show      figures and tables
crowd     thousands of silent clients              callers   many that ask, from one thread
look      at any process, by its number            tracer    the system calls that it makes
bill      what a visit costs                       check     the exercises' checks
chapters  the notebooks themselves                 findings  the claims and the defects
"""

import select
import sys
from pathlib import Path

if not hasattr(select, "epoll"):
    raise ImportError(
        "epoll is Linux's own, and this system has none. "
        "Read the book, or open it on Binder, in a container or in WSL."
    )

_BOOK = Path(__file__).resolve().parent.parent
_ipython = sys.modules.get("IPython")
if _ipython and _ipython.get_ipython() and Path.cwd().resolve() != _BOOK:
    raise ImportError(
        f"This notebook works in its own folder, {_BOOK}, where its servers are written to run/; "
        f"it was started in {Path.cwd()}."
    )
(_BOOK / "run").mkdir(exist_ok=True)

from . import (  # noqa: E402
    bill,
    callers,
    chapters,
    clients,
    crowd,
    kernel,
    server,
    show,
    survival,
)  # fmt: skip
from .check import check  # noqa: E402
from .clients import Conversation, get, outcome  # noqa: E402
from .crowd import Crowd  # noqa: E402
from .findings import (  # noqa: E402
    CLAIM_WORDS,
    by_chapter,
    claims,
    defects,
    list_defects,
    proofs,
    verdicts,
)  # fmt: skip
from .kernel import free_port  # noqa: E402
from .look import look  # noqa: E402
from .record import record  # noqa: E402
from .server import start, stop_all, until, until_at_rest, until_blocked  # noqa: E402

__all__ = [
    "CLAIM_WORDS", "Conversation", "Crowd", "bill", "by_chapter", "callers", "chapters", "check",
    "claims", "clients", "crowd", "defects", "free_port", "get", "kernel", "list_defects", "look",
    "outcome", "proofs", "record", "server", "show", "start", "stop_all", "survival", "until",
    "until_at_rest", "until_blocked", "verdicts",
]  # fmt: skip
