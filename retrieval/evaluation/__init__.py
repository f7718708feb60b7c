"""How good retrieval is: a protocol without leakage, measures and tuned baselines."""
