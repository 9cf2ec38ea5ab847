"""One file a kind of layer: what m-SAM takes of it at w, and how it gives each group its own weights at w + e."""
