"""The published checkpoints themselves, for whoever has a network: `pytest -m hub`. docs/published.md says what it takes."""
