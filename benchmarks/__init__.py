"""Measurements of speed, printed as tables; ``make bench`` runs them all."""
