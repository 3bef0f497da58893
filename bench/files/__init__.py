"""Files that are whole or absent, locks, progress.

May import bench.errors.
"""

from bench.files.atomic import ASIDE, atomic, below, opened, read_text, regular, set_aside, sha256, write_text
from bench.files.lock import LOCK, alone, bury
from bench.files.progress import Reporter
