"""Other people's attacks behind our own contract; each is imported only when it is used.

May import plugins and what lies below.
"""

from bench.compat.library import package
