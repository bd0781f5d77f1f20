"""Text from elsewhere, such as names of videos and classes, that shows itself and does nothing."""

from hashlib import sha256

LONGEST_NAME = 200  # bytes of a file's or folder's; file systems take 255 with the endings


def visible(text: str) -> str:
    """Text with what a terminal would obey, and bytes that are no text, written as in Python."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def short_name(name: str, of: str, longest: int = LONGEST_NAME) -> str:
    """A name cut to what file systems take, with a hash of what it is `of` to tell it from others.

    Args:
        name: of a file without its ending, or of a folder.
        of: what it was made from.
        longest: bytes that it may have.
    """
    if len(name.encode()) <= longest:
        return name
    cut = name.encode()[: longest - 9].decode(errors="ignore")
    return f"{cut}_{sha256(of.encode(errors='surrogateescape')).hexdigest()[:8]}"
