"""What is made before training, from training pairs alone: teacher, artefacts, grounded items, trees."""
