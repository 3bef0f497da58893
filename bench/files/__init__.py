"""Files that are whole or absent, locks, progress, TOML of users.

May import bench.errors.
"""

from bench.files.atomic import ASIDE, atomic, below, opened, read_text, regular, set_aside, sha256, write_arrays, write_text
from bench.files.lock import LOCK, alone, bury, busy
from bench.files.progress import Reporter
from bench.files.toml import read_toml, refusal
