"""Gauntlet: how robust is this classifier, really? A robustness benchmarking harness for PyTorch."""
