"""jaxgen: audio generation in JAX."""

import sys

from jaxgen import errors

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # so Python says while it looks for the module of `python -m jaxgen.train`
    errors.begin()
