"""Filters of system calls (seccomp(2)), from a profile to the program the kernel runs (floor 1).

In reading order: `rules` (what a profile comes to for one processor and set of capabilities), `default` (the
project's own profile), `program` (rules written as a program of classic BPF), `numbers` (the tables of system
call numbers) and `filters` (the filter of one container, compiled once).
"""
