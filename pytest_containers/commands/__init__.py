"""The commands of ``pytest-containers``, each imported when it is run.

`grammar` says what they take. A command is a function from its arguments to its exit code; results go to
standard output, how far it is to standard error.
"""
