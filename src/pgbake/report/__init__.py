"""A report on a bundle: what is in it, how it was built, what its checks said, and what has changed. Nothing prints."""
