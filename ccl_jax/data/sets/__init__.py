"""Sets of latents: records, shards, buckets, mixtures."""
