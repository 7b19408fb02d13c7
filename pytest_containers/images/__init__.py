"""Images: names, registries, the store on disk, layers (floor 1; never sees the runtime wing)."""
