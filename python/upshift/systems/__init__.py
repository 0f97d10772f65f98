"""What exists only in one of the served systems: its singletons, managers and demonstrations."""

__all__: list[str] = []
