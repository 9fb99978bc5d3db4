"""Before training: scenes in, shards out; runs without torch, DeepSpeed and Ray."""
