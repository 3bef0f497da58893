"""Names that people give: a row's label, who handed in examples. They become parts of folders, tables and terminals."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

LONGEST_NAME, LONGEST_LABEL = 100, 300


def check_name(text: str) -> str:
    """The name as it is; ValueError for one that is long, empty, not printable, or would lead out of a folder."""
    if not text.strip() or len(text) > LONGEST_NAME or not text.isprintable() or set(text) & {"/", "\\"} or text[0] in ".-":
        raise ValueError(
            f"a name becomes a part of a folder's name and of tables; give 1 to {LONGEST_NAME} printable characters without "
            "slashes that begin with no '.' or '-'"
        )
    return text


def check_label(text: str) -> str:
    """The same of what stands in tables alone, where slashes lead nowhere."""
    if not text.strip() or len(text) > LONGEST_LABEL or not text.isprintable():
        raise ValueError(f"it becomes a line and a column of tables; give 1 to {LONGEST_LABEL} printable characters")
    return text


Name = Annotated[str, AfterValidator(check_name)]
Label = Annotated[str, AfterValidator(check_label)]
