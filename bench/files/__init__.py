"""Files that are whole or absent, locks, progress, JSON and TOML of anybody.

May import bench.errors.
"""

from bench.files.atomic import ASIDE, atomic, below, opened, read_text, regular, set_aside, sha256, write_arrays, write_text
from bench.files.json_file import levels, parse_json, read_json
from bench.files.lock import LOCK, alone, bury, busy
from bench.files.progress import Reporter
from bench.files.toml import read_toml, refusal
