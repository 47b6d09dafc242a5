"""The check: what may meet, what a name means, and every mistake of a graph together."""
