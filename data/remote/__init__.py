"""Remote shards: what an address names, what it holds, and a cache of whole shards on this machine's disk."""
