"""``python -m trtmut`` is ``trtmut``."""

import os
import sys

from ._run import binary

if __name__ == "__main__":
    program = binary()
    os.execv(program, [program, *sys.argv[1:]])
