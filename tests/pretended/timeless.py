"""What an evaluation leaves, less what depends on the clock."""

import hashlib
import json
from pathlib import Path
from typing import Any


def timeless(value: Any, *more: str) -> Any:
    """Parsed JSON without seconds and whatever else is named."""
    if isinstance(value, dict):
        return {key: timeless(inner, *more) for key, inner in value.items() if key not in ("seconds", *more)}
    return [timeless(inner, *more) for inner in value] if isinstance(value, list) else value


def digests(card: Path) -> list[str]:
    """Of records, archive and the card less its seconds."""
    told = json.dumps(timeless(json.loads(card.read_text())))
    files = [card.with_name(name).read_bytes() for name in ("samples.parquet", "archive.safetensors")]
    return [hashlib.sha256(content).hexdigest() for content in (*files, told.encode())]
