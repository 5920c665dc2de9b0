"""Offline part of ``dtl`` (METHODS section 6): trees over items, and scores of false negatives calibrated on hidden
training pairs. Knows the training pairs alone; imports neither recbole nor llm."""
