"""Small worlds in which what robust training does can be worked out: linear classifiers, and images of patches."""
