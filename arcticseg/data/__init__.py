"""From shards to batches. Imports nothing, so that the shard builder can use the sample format without torch."""
