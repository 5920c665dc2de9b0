"""Offline part of ``dtl`` (DTL-NS, arXiv 2602.18249): trees over items, and scores of false negatives calibrated on
hidden training pairs. Knows the training pairs alone; imports neither recbole nor llm."""
