"""The kinds of labelling problems the core knows."""
