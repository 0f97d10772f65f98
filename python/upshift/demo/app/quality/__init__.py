"""Quality evidence for trees of Python sources."""
