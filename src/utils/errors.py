"""The one exception that means "the user can fix this", as opposed to a bug."""

from hashlib import sha256

_CONTROLS = {
    number: repr(chr(number))[1:-1] for number in (*range(32), *range(127, 160)) if number != 10
}
LONGEST_NAME = 200  # bytes of a file's or folder's; file systems take 255 with the endings


class UserError(Exception):
    """A mistake in the input: one line that names the thing, the reason and what to do.

    Entry points print it and exit with status 1; anything else keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands its exception on as the text of its full traceback.
        lines = message.rsplit("UserError: ", 1)[-1].splitlines()
        super().__init__(visible(" ".join(filter(None, map(str.strip, lines)))))


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def visible(text: str) -> str:
    """Text with what a terminal would obey, and bytes that are no text, written as in Python."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def without_controls(text: str) -> str:
    """Text for a file of lines: what a terminal that shows it would obey, as Python writes it."""
    return text.translate(_CONTROLS)


def short_name(name: str, of: str, longest: int = LONGEST_NAME) -> str:
    """A file's or folder's name (without ending) cut to what file systems take, `longest` bytes.

    A hash of what it is made `of` distinguishes it from others.
    """
    if len(name.encode()) <= longest:
        return name
    cut = name.encode()[: longest - 9].decode(errors="ignore")
    return f"{cut}_{sha256(of.encode(errors='surrogateescape')).hexdigest()[:8]}"
