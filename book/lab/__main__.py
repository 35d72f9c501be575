"""What the Makefile calls.

python -m lab code             write code/NN_name.py from the notebooks
python -m lab run [NAME …]     execute notebooks and store their outputs
python -m lab build            build the site into _build/html
"""

import sys

from . import chapters

match sys.argv[1:]:
    case ["code"]:
        chapters.write_copies()
    case ["run", *names]:
        chapters.execute(*names)
    case ["fresh", *names]:
        chapters.execute(*names, fresh=True)
    case ["build"]:
        chapters.build()
    case _:
        sys.exit("usage: python -m lab code | run [NAME …] | fresh [NAME …] | build")
