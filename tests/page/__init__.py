"""The pages, as people and as their scripts see them."""
