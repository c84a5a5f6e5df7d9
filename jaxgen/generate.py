"""`python -m jaxgen.generate`: see `jaxgen.cli.generate`."""

from jaxgen.cli.generate import main
from jaxgen.core.errors import run

if __name__ == "__main__":
    run(main)
