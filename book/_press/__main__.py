"""What the Makefile calls.

python -m _press code             write code/NN_name.py from the notebooks
python -m _press run [NAME …]     execute notebooks and store their outputs
python -m _press build            build the site into _build/html
"""

import sys

from . import build, copies, execute

match sys.argv[1:]:
    case ["code"]:
        copies.write_copies()
    case ["run", *names]:
        execute.execute(*names)
    case ["fresh", *names]:
        execute.execute(*names, fresh=True)
    case ["build"]:
        build.build()
    case _:
        sys.exit("usage: python -m _press code | run [NAME …] | fresh [NAME …] | build")
