"""Recordings to a latent dataset: found, decoded in processes, encoded in batches, written shard by shard."""
