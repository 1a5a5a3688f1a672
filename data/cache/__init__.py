"""What a frozen teacher says of every sample, stored once beside the shards and read back in training.

``contract`` is what a cache was made from, ``places`` where its files lie, ``sidecar`` one shard's file, ``shard`` the
function that writes one, ``job`` the one that runs it over many, ``recipe`` what a recipe asks for, ``lookup`` how a
sample's features are found again.
"""
