"""Regularizers of children: one file each, and their registry.

regularizer   base class: names, strength, and hooks into training
registry      all regularizers, and the methods that they make
none noise dropout dni    one regularizer each; free of torch at import, since specs use them
sites         modules that change features, and the random numbers of a pass
installed     the regularizer of one child, with its current values
"""
