"""Run a program, module or function once for each combination of argument spans, here or as one job's tasks.

`spans` reads arguments, `targets` tells what is to be run, `running` runs it here, `script` writes what one task of a
job runs, `call` is the child that calls a function. Nothing here knows of a share: hakurun works where no river is.
"""
