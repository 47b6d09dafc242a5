"""Weights: addresses, configs, files and digests, safetensors and pickles, the Hub."""
