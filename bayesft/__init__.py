"""Neural networks that tolerate ReRAM weight drift: drift, methods, BayesFT's search, evaluation, figures.

The subpackages import one another in one direction only:
drift, data, models → training → search → evaluation → report.
"""
