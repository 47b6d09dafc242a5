"""The graph language: strict YAML, the graph as data, reading, writing, sources of documents."""
