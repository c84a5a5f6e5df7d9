"""jaxgen: audio generation in JAX."""

import sys

from jaxgen.core import errors

__version__ = "0.2.0"

# While Python looks for the module of `python -m jaxgen.train`. Another program's process is left as it is.
if sys.argv[:1] == ["-m"] and any(word.startswith(("jaxgen.", "-mjaxgen.")) for word in sys.orig_argv):
    errors.begin()
