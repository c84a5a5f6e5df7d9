"""`python -m jaxgen.train`: see `jaxgen.cli.train`."""

from jaxgen.cli.train import main
from jaxgen.core.errors import run

if __name__ == "__main__":
    run(main)
