"""One layer after training: label sets that are learned, and the recipes that choose labels on them."""
