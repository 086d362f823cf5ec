"""What a step is given to work with: data, training, evaluation, and a folder that makes it resumable.

A step is written as if it ran once, from start to end. To resume, the same step is simply run again from its input:
the calls to `train` are numbered, a finished one is loaded from its checkpoint at once, an unfinished one goes on at
the last finished epoch, and `remember` gives back what was computed before. Everything between those calls is
deterministic. So no step contains a line about resuming, and a killed run ends with the same bytes.
"""
