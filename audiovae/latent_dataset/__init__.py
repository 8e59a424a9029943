"""A latent dataset: Parquet shards with one row for each recording, and what reads and writes them."""
