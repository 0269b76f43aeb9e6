"""The one exception for agents that cannot be used."""


class AgentError(ValueError):
    """
    An agent that is not there, or not what it should be.

    :param message: names the file; what it quotes of one is shown as one line without control characters, which a terminal
        would obey
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(each if each.isprintable() else "?" for each in " ".join(message.split())))
