"""Encoders pretrained on unlabelled radiographs: what the pretraining scripts do."""
