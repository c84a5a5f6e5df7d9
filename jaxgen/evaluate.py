"""`python -m jaxgen.evaluate`: see `jaxgen.cli.evaluate`."""

from jaxgen.cli.evaluate import main
from jaxgen.core.errors import run

if __name__ == "__main__":
    run(main)
