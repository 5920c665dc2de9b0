"""What surrounds RecBole's training: batches, optimizers, epochs that are watched, several processes."""
