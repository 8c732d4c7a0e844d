"""BayesFT's search for dropout rates: the surrogate (eqs. 5-9), what to try next, Algorithm 1."""
