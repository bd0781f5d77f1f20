"""The one exception that means "the user can mend this", as opposed to a bug."""

from src.text import visible


class UserError(Exception):
    """A mistake in the input: one line that names the thing, the reason and the mend.

    Entry points print it and exit with status 1; anything else keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands its exception on as the text of its whole traceback.
        lines = message.rsplit("UserError: ", 1)[-1].splitlines()
        super().__init__(visible(" ".join(filter(None, map(str.strip, lines)))))


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
