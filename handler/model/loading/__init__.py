"""From weights in files to the layers of a model, one weight after the other."""
