"""The report: one folder of static pages from a folder of results.

May import report, verify, compare, pictures and what lies below.
"""

from bench.site.site import Written, write_report
