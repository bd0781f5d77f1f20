"""Tables and bars of progress on a terminal, alike in all commands, and silence."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from src.utils.errors import visible


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    left: Collection[str] = (),
    unbroken: Collection[str] = (),
) -> Table:
    """A table whose cells show every text as it is.

    The columns `left` are of texts and aligned left, the others of numbers. Texts in `unbroken`
    columns stay on one line where the terminal is narrow.
    """
    made = Table(title=None if title is None else Text(visible(title)), title_justify="left")
    for column in columns:
        made.add_column(
            Text(visible(column)),
            justify="left" if column in left else "right",
            overflow="fold",
            no_wrap=column in unbroken,
        )
    for row in rows:
        made.add_row(*(Text(visible(cell)) for cell in row))
    return made


def progress(time_left: bool = True) -> Progress:
    """A bar with a description on the terminal, below whatever is printed; elsewhere nothing."""
    console = Console(stderr=True)
    return Progress(
        BarColumn(),
        TextColumn("{task.description}", markup=False),
        *([TimeRemainingColumn()] if time_left else []),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and logs meanwhile; what fails comes as an exception."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
