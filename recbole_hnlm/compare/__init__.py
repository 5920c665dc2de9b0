"""Grids of models, samplers, losses and baselines, tuned alike and told as one table: ``recbole-hnlm compare``.

Loaded by that command alone. ``plan`` says what is run, ``ledger`` keeps every finished run, ``runner`` trains one in a
process of its own, ``tuning`` searches on validation, ``tables``, ``plots`` and ``report`` tell of it.
"""
