"""The seam to what runs containers, and the engines behind it (floor 2)."""
