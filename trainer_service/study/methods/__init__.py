"""Methods of studies: one file per kind, and their registry.

plan       children of a study, and the results so far
entry      base class: checks, children, tuning and judging, and the report's view
choosing   base classes of searches and of controllers, over one regularizer
registry   all kinds, by their names in study files
fixed grid random_search bayesian schedule random ppo replay mean carried pbt    a kind each
"""
