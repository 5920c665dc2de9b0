"""YAML: defaults of samplers and models, prompts, and what ``compare`` tunes. Holds no code."""
