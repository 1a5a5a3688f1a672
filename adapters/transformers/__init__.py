"""What the ``transformers`` teacher is made of: the families that are known, loading, a tower's taps, inputs."""
