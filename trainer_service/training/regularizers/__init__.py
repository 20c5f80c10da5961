"""How a child is regularized: a file for each regularizer, and the registry of them.

regularizer   what one is: its names, its strength, and its hooks into a training
registry      all of them, and the methods that they make
none noise dropout dni    a regularizer each; they import no torch, since specs are checked by them
sites         where features are changed, and the random numbers of a pass
installed     a regularizer in a child, and the values that it runs under
"""
