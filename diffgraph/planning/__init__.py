"""The plan: keys, lowering to flat instructions, and what the store spares."""
