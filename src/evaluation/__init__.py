"""Whole videos tested: protocols, scores, what they tell, and their fusion."""
