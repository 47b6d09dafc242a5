"""Arithmetic and text: a package of nodes that knows nothing of diffusion, installed as a third party's would be."""
