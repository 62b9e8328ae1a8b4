"""Error maps and reconstructions: arrays and callables in, arrays and scores out."""
