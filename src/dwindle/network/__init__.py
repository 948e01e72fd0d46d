"""Networks in, networks out: selection, capture, training, structural edits."""
