"""The verbs of the command line, by what they are about. None imports torch unless it must."""
