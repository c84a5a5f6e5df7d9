"""`python -m jaxgen`: see `jaxgen.cli.command`."""

from jaxgen.cli.command import start

if __name__ == "__main__":
    start()
