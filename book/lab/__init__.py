"""The laboratory: what the notebooks import to run a server, play a client and ask the kernel.

session    the notebook's servers and files       recorder  everything a run did, on one clock
crowd      many clients at once                   cost      what a visit costs a server
matrix     every server against every client      show      figures and tables
article    the claims and the defects             notebooks the pages as files
experiment the words that cells are written in    measured  values in bands, tables of them
steps      a run's calls, and what was watched    masks     what epoll reports, and when
states     what state a TCP connection is in, and why
stepper    a recorded run, step by step          frames    what its steps are made of
ladder     the segments between two ends, as measured
bench      what a request costs servers under load: stored, and measured

Two more rooms stand beside this one, and need nothing but Python: `survive` (servers, clients, the
awkward ones, the scene that judges them) and `look` (the kernel's view, and a look at any process).
What a cell wants of them is here under its own name.
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
_shell = _ipython.get_ipython() if _ipython else None
if _shell and Path.cwd().resolve() != _BOOK:
    raise ImportError(
        f"This notebook works in its own folder, {_BOOK}, where its servers are written to run/; "
        f"it was started in {Path.cwd()}."
    )
(_BOOK / "run").mkdir(exist_ok=True)

from look import kernel  # noqa: E402
from look.report import report  # noqa: E402
from look.view import look_at  # noqa: E402
from survive import awkward, clients, rows, scene  # noqa: E402
from survive.clients import REQUEST, Conversation, fill, get, outcome, pair, reset  # noqa: E402
from survive.rows import Traits  # noqa: E402
from survive.server import Server, ServerError, free_port, serve  # noqa: E402
from survive.waiting import until, until_at_rest, until_blocked  # noqa: E402

from . import (  # noqa: E402
    article,
    bench,
    cost,
    crowd,
    ladder,
    matrix,
    notebooks,
    session,
    show,
    states,
    stepper,
)
from .article import (  # noqa: E402
    CLAIM_WORDS,
    by_chapter,
    claims,
    defects,
    list_defects,
    proofs,
    verdicts,
)
from .crowd import Asker, Crowd, ask_all  # noqa: E402
from .experiment import (  # noqa: E402
    as_pid_1,
    asleep,
    at_rest,
    both_ends,
    connect,
    entries,
    inherited,
    listed,
    names,
    raised,
    reported,
    run_in_child,
    send_without_copying,
    settled,
    signalled,
    sleeping,
    tls_pair,
    together,
    told,
    tried,
    until_threads,
    woken,
    woken_by,
)
from .ladder import Watch  # noqa: E402
from .masks import Masks  # noqa: E402
from .matrix import check, check_stays, say_solved  # noqa: E402
from .measured import Table, about, timed, within  # noqa: E402
from .recorder import record  # noqa: E402
from .session import edited, start, stop_all, variant  # noqa: E402
from .steps import Steps  # noqa: E402

if _shell:
    session.add_magic(_shell)

__all__ = [
    "CLAIM_WORDS", "REQUEST", "Asker", "Conversation", "Crowd", "Masks", "Server", "ServerError",
    "Steps", "Table", "Traits", "Watch", "about", "article", "as_pid_1", "ask_all", "asleep",
    "at_rest", "awkward", "bench", "both_ends", "by_chapter", "check", "check_stays", "claims",
    "clients", "connect", "cost", "crowd", "defects", "edited", "entries", "fill", "free_port",
    "get", "inherited", "kernel", "ladder", "list_defects", "listed", "look_at", "matrix", "names",
    "notebooks", "outcome", "pair", "proofs", "raised", "record", "report", "reported", "reset",
    "rows", "run_in_child", "say_solved", "scene", "send_without_copying", "serve", "session",
    "settled", "show", "signalled", "sleeping", "start", "states", "stepper", "stop_all", "timed",
    "tls_pair", "together", "told", "tried", "until", "until_at_rest", "until_blocked",
    "until_threads", "variant", "verdicts", "within", "woken", "woken_by",
]  # fmt: skip
