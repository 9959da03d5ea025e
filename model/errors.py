"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """Something that the user gave is wrong; the message is one line: what, where and what to do."""
