"""Text from elsewhere, such as names of videos and classes, that shows itself and does nothing."""


def visible(text: str) -> str:
    """Text with what a terminal would obey, and bytes that are no text, written as in Python."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
