"""Does a plug-in keep what the harness relies on; and the files that a new one starts from.

May import training and what lies below.
"""

from bench.doctor.boards import scaffold_board
from bench.doctor.examination import examine_plugin
from bench.doctor.scaffolding import scaffold
