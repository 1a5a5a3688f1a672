"""What the ``open_clip`` teacher is made of: where weights lie, both towers' taps, pictures and texts."""
