"""One file per defense; a small frozen dataclass each."""
