"""Drawings of graphs: what there is to draw, where it stands, and the file. Pure Python; only png.py needs Pillow."""
