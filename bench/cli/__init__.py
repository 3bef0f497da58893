"""The command line: commands, their options, catalogue and demo.

May import everything; imports torch only inside a command.
"""
