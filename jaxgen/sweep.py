"""`python -m jaxgen.sweep`: see `jaxgen.cli.sweep`."""

from jaxgen.cli.sweep import main
from jaxgen.core.errors import run

if __name__ == "__main__":
    run(main)
