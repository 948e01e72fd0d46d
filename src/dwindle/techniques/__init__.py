"""One file for each way to compress; they never import each other."""
