"""The experiments of the literature as data: recipes, published tables, and what is asked of the outcome."""
