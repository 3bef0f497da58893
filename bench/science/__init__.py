"""What is measured on a network and its loss.

May import bench.core.
"""
