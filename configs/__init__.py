"""Recipes and training configurations that ship: `--config NAME` and `--recipe NAME` find them."""
