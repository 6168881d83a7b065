"""The two ways a run ends early, so that a caller can tell them from a defect of the program."""


class UsageError(ValueError):
    """Bad input. The message names the value, the rule it breaks and the remedy."""


class Diverged(RuntimeError):
    """Training produced a number that is not finite. The message names the step."""
