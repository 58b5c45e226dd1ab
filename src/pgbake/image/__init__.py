"""Images: what a bundle runs in."""
