"""Several anatomies, modalities and intensity families in one network, for what has few cases of its own."""
