"""What pretraining is worth, measured on phantoms, whose truth is known."""
