"""What a study compares: a file for each kind of method, and the registry of them.

plan       which children a study has, and what of them is finished
entry      what all kinds have: their checks, children, judging, and what a report says of them
choosing   those that decide values of one regularizer: by a search, by a controller
registry   all kinds, by the word that a study file uses
fixed grid random_search bayesian schedule random ppo replay mean carried pbt    a kind each
"""
