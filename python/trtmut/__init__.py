"""What a Python program needs to drive trtmut: its commands, and what torch knows of shapes and inputs as the files that they read.

The program itself is the binary that this package installs. torch is used where its objects are given, and never imported before.
"""

from ._files import save_inputs
from ._run import Error, binary, run
from ._shapes import shapes_from_torch

__all__ = ["Error", "binary", "run", "save_inputs", "shapes_from_torch"]
