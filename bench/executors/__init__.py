"""Many tasks at once: in this process, in processes beside it, on a cluster.

May import bench.errors.
"""

from bench.executors.choice import executor_of
from bench.executors.executor import Executor, Failed, InProcess
