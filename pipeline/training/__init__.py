"""Training: clips become triplets (clips, sampling), triplets weights (losses, loop), Ray carries it (ray_train)."""
