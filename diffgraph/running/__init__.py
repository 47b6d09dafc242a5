"""The run: the loop over instructions, residency of weights, and the store of results."""
