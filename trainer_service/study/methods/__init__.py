"""Methods of studies: a file per kind or family of kinds, and their registry.

plan       children of a study, and the results so far
entry      base class: checks, children, tuning and judging, and the report's view
choosing   base classes of methods that set one regularizer's values, and of controllers
registry   all kinds, by their names in study files
fixed searches bayesian schedule random ppo derived carried pbt    the kinds
"""
