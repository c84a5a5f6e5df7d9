"""`python -m jaxgen.prepare`: see `jaxgen.cli.prepare`."""

from jaxgen.cli.prepare import main
from jaxgen.core.errors import run

if __name__ == "__main__":
    run(main)
