"""The runtime wing: kernel objects, from system calls up to a supervised sandbox (floor 1)."""
