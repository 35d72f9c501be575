"""What the Makefile calls; see USAGE.

Each command imports what it needs: `constraints` and `newest` run before anything is installed.
"""

import sys

USAGE = """usage: python -m _press COMMAND

code              write code/NN_name.py from the notebooks
run [NAME …]      execute notebooks, all or those named, and store what they print
fresh [NAME …]    the same; new pictures are stored as well where nothing else has changed
prose [NAME …]    print what no assertion ties of the prose, of all pages or of those named
build             build the site, and look.pyz with it, into _build/html
constraints       write constraints.txt anew, with the newest that goes with requirements.txt
bench             measure what servers cost under load, and store it
newest            test and build with the newest of everything; say what differs, what breaks"""

match sys.argv[1:]:
    case ["code"]:
        from .copies import write_copies

        write_copies()
    case ["run" | "fresh" as command, *names]:
        from .execute import execute

        execute(*names, fresh=command == "fresh")
    case ["prose", *names]:
        from .prose import report

        report(*names)
    case ["build"]:
        from .build import build

        build()
    case ["bench"]:
        from .bench import bench

        bench()
    case ["constraints"]:
        from .versions import write_constraints

        write_constraints()
    case ["newest"]:
        from .versions import try_newest

        try_newest()
    case _:
        sys.exit(USAGE)
