"""Files from other machines: addresses, streams of bytes, patience with networks. Zoo and remote shards share them."""
