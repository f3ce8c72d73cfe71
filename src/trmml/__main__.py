"""`python -m trmml` is the command `trmml`."""

from trmml.cli.main import app

if __name__ == "__main__":
    app(prog_name="trmml")
