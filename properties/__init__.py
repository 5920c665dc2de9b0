"""YAML defaults: ``hnlm.yaml``, ``sampler/``, ``model/`` and ``prompts/``. Holds no code."""
