"""Methods of studies, a file per family of kinds, and their registry.

plan       children of a study, and the results so far
entry      base class: checks, children, tuning and judging, and the report's view
choosing   base class of methods that set one regularizer's values
registry   all kinds, by their names in study files
fixed searches steered learning pretrained derived carried pbt    the kinds
"""
