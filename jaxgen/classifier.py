"""`python -m jaxgen.classifier`: see `jaxgen.cli.classifier`."""

from jaxgen.cli.classifier import main
from jaxgen.core.errors import run

if __name__ == "__main__":
    run(main)
