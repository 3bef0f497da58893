"""One file per attack; a function each."""
