"""Comparing solvers as a product."""
