"""Plain names for files and places, whatever a stranger may have called a thing."""

from __future__ import annotations

import hashlib
import re


def slug(text: str, whole: str) -> str:
    """A plain and short name for a text; another whole has another name."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower())[:48].strip("-")
    return f"{plain or 'row'}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
