"""Models in and out: networkx graphs."""
