"""Models in and out: files in the formats of the field, and networkx graphs."""
