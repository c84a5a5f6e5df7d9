"""`python -m jaxgen.judge`: see `jaxgen.cli.judge`."""

from jaxgen.cli.judge import main
from jaxgen.core.errors import run

if __name__ == "__main__":
    run(main)
