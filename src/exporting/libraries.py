"""Libraries that only exporting needs, and that may not be there."""

from importlib.util import find_spec

from src.errors import UserError


def check_installed(purpose: str, *names: str) -> None:
    """Refuse to begin without the libraries that the end will need.

    Args:
        purpose: what needs them.
        names: of the libraries.

    Raises:
        UserError: one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"{purpose} needs {name}: pip install -e '.[export]'")
