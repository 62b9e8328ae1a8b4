"""On-disk layouts of real data sets."""
