"""Commands are killed at every write, rename and removal; the next run must finish the work.

points.py     counts what changes files, and kills the process at one such point
commands.py   the commands, and what must be the same with and without a kill
server.py     a process that has imported everything and forks a child for each run
test_kills.py some points of each command for CI; `-m slow` runs all
"""
