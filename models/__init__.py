"""Networks, weights, backbones."""
