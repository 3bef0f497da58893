"""Defenses that look robust under plain PGD and are not: what a diagnosis has to expose, a file each."""
