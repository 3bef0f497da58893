"""Names that people give: a row's label, who handed in examples. They become parts of folders, tables and terminals."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from bench.escape import line

LONGEST_NAME, LONGEST_LABEL = 100, 300


def check_name(text: str) -> str:
    """The name as it is; ValueError for one that is long, empty, not printable, or would lead out of a folder."""
    if _unseen(text) or len(text) > LONGEST_NAME or set(text) & {"/", "\\"} or text[0] in ".-":
        raise ValueError(
            f"a name becomes a part of a folder's name and of tables; give 1 to {LONGEST_NAME} printable characters without "
            "slashes, with no space at either end, that begin with no '.' or '-'"
        )
    return text


def _unseen(text: str) -> bool:
    """Whether something of a text is not seen where it is read, so that two texts may look alike."""
    return text != text.strip() or not text or line(text) != text


def check_label(text: str) -> str:
    """The same of what stands in tables alone, where slashes lead nowhere."""
    if _unseen(text) or len(text) > LONGEST_LABEL:
        raise ValueError(
            f"it becomes a line and a column of tables; give 1 to {LONGEST_LABEL} printable characters, a space at neither end"
        )
    return text


Name = Annotated[str, AfterValidator(check_name)]
Label = Annotated[str, AfterValidator(check_label)]
